"""Every schedule of a small world: a depth-first search over the scheduler's choices.

Two stories that have led to the same state of the whole world (tables, queue, books, clock, what each invocation has
seen so far, what is left of the budget) go on alike, so the second one is counted and not told again. The count of
schedules is exact all the same: it is the number of paths through the graph of states.

To tell a choice takes a world of its own, in which the story up to there is told again. So the explorer looks first
whether it leads to a state that is known already (Foresight).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.simulation.engine import Choice, Fiber, Invocation, Standing
from tests.simulation.invariants import Violation
from tests.simulation.simulated import FREEZE_SECONDS, SimulatedWorld


class Next(NamedTuple):
    """What a start may return: something that may start from then on. The text says all that it depends on."""

    text: str
    start: Callable[[SimulatedWorld], object]


type Later = tuple[str, Callable[[SimulatedWorld], object]]


@dataclass
class Small:
    """A small world, ready to be explored."""

    world: SimulatedWorld
    later: list[Later] = field(default_factory=list)  # may start at any time
    passes: list[float] = field(default_factory=list)  # seconds that may pass, one after the other, at any time
    kills: int = 2
    faults: int = 2
    freezes: int = 0  # of a process, for longer than a lease and than its own time
    twins: bool = False  # tell those faults too that the code takes the same way as another
    at_the_end: Callable[[SimulatedWorld], None] = lambda _: None

    def state(self) -> int:
        left = (tuple(text for text, _ in self.later), tuple(self.passes), self.kills, self.faults, self.freezes)
        # What is excused is part of it: two stories that differ in what could be known are not alike. Nor are two that
        # differ in what operators have been told.
        watch = self.world.watch
        return hash((self.world.state(), left, frozenset(watch.excused), frozenset(watch.decided)))

    def choices(self) -> list[Choice]:
        found: list[Choice] = []
        for invocation in self.world.live:
            for fiber in invocation.pending():
                found += self._of(fiber)
            if self.freezes and not invocation.outlives_its_time:
                text = f"{invocation.name} freezes for {FREEZE_SECONDS:g} s"
                found.append(Choice("freeze", text, lambda invocation=invocation: self._freeze(invocation)))
        for number, (text, _) in enumerate(self.later):
            found.append(Choice("start", text, lambda number=number: self._start(number)))
        if self.passes and found:
            found.append(Choice("pass", f"{self.passes[0]:g} s pass", self._pass))
        return found

    def _of(self, fiber: Fiber) -> list[Choice]:
        call = fiber.call
        assert call
        where = f"{fiber.invocation.name}: {call.name} {call.detail}".rstrip()
        found = [Choice("run", where, lambda: self.world.run(fiber), fiber)]
        if self.faults:
            found += [
                Choice("fault", f"{where}: {fault.name}", lambda fault=fault: self._fault(fiber, fault), fiber, fault)
                for fault in call.faults
                if self.twins or not fault.twin
            ]
        if self.kills:
            found.append(Choice("kill", f"{where}, and then it dies", lambda: self._kill(fiber), fiber))
        return found

    def _fault(self, fiber: Fiber, fault: object) -> None:
        self.faults -= 1
        self.world.run(fiber, fault)  # type: ignore[arg-type]

    def _kill(self, fiber: Fiber) -> None:
        self.kills -= 1
        self.world.kill_after_effect(fiber)

    def _freeze(self, invocation: Invocation) -> None:
        self.freezes -= 1
        self.world.freeze(invocation)

    def _start(self, number: int) -> None:
        _, start = self.later.pop(number)
        self.later += [follows for follows in [start(self.world)] if isinstance(follows, Next)]

    def _pass(self) -> None:
        self.world.pass_seconds(self.passes.pop(0))

    def savepoint(self) -> Callable[[], None]:
        """What takes back a call that was made or failed, whenever it is called."""
        world, kills, faults = self.world.savepoint(), self.kills, self.faults

        def rollback() -> None:
            world()
            self.kills, self.faults = kills, faults

        return rollback


class Foresight:
    """Which state a choice leads to, as far as that is known without telling it.

    What a call does to the tables, the queue and the books is tried, and taken back. What its invocation does then is
    known if it was told before: what a process does depends on what it has ever been told, and on nothing else.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Standing, tuple[Any, ...]]] = {}  # by the sandbox's history, with its memory

    def learn(self, choice: Choice) -> None:
        """The choice has just been told."""
        if choice.fiber and choice.kind != "kill":
            invocation = choice.fiber.invocation
            self._known[invocation.sandbox.history] = (invocation.standing(), invocation.sandbox.memory())

    def states_after(self, small: Small, choices: Sequence[Choice]) -> list[int | None]:
        """None: it is not known, or an invariant breaks; so it must be told."""
        rollback = small.savepoint()
        return [self._state_after(small, choice, rollback) for choice in choices]

    def _state_after(self, small: Small, choice: Choice, rollback: Callable[[], None]) -> int | None:
        if choice.fiber is None or (choice.fault and choice.fault.takes_time):
            return None
        world, invocation = small.world, choice.fiber.invocation
        try:
            if choice.kind == "kill":
                small.kills -= 1
                world.take_effect(choice.fiber)
                world.watch.died(invocation)
                invocation.dead = True
                return small.state()
            small.faults -= choice.kind == "fault"
            outcome = world.happen(choice.fiber, choice.fault)
            known = self._known.get(world.history(choice.fiber, outcome))
            if known is None:
                return None
            invocation.foreseen, invocation.sandbox.foreseen = known
            if invocation.ended:
                invocation.on_end(invocation)
            return small.state()
        except Violation:
            return None
        finally:
            invocation.dead, invocation.foreseen, invocation.sandbox.foreseen = False, None, None
            rollback()


@dataclass
class Explored:
    schedules: int = 0
    states: int = 0
    steps: int = 0  # choices actually taken, replays included
    endings: int = 0


class Story(AssertionError):
    """A schedule that breaks an invariant, told step by step."""


def explore(build: Callable[[], Small], foresight: Foresight | None = None) -> Explored:
    """Raises Story at the first schedule that breaks an invariant."""
    foresight = foresight or Foresight()
    found = Explored()
    counts: dict[int, int] = {}  # of the schedules from a state on

    def told(path: list[int]) -> tuple[Small, list[str]]:
        small, lines = build(), []
        for number in path:
            choice = small.choices()[number]
            lines.append(choice.text)
            found.steps += 1
            choice.take()
        return small, lines

    def visit(small: Small, path: list[int], lines: list[str]) -> int:
        key = small.state()
        if key in counts:
            small.world.abandon()
            return counts[key]
        choices = small.choices()
        found.states += 1
        if not choices:
            found.endings += 1
            _tell(lines, "the end", lambda: _end(small))
            counts[key] = 1
            return 1
        total = 0
        at_hand = True  # the world, which stands in this state until a choice is told
        for number, state_after in enumerate(foresight.states_after(small, choices)):
            if state_after in counts:
                total += counts[state_after]
                continue
            if not at_hand:
                small, lines = told(path)
                choices = small.choices()
            at_hand = False
            choice = choices[number]
            found.steps += 1
            _tell(lines, choice.text, choice.take)
            foresight.learn(choice)
            total += visit(small, [*path, number], [*lines, choice.text])
        if at_hand:
            small.world.abandon()
        counts[key] = total
        return total

    small, lines = told([])
    found.schedules = visit(small, [], lines)
    return found


def _end(small: Small) -> None:
    small.world.aftermath()
    small.at_the_end(small.world)
    small.world.watch.quiet(small.world)


def _tell(lines: list[str], text: str, take: Callable[[], None]) -> None:
    try:
        take()
    except Violation as error:
        story = "\n".join(f"  {number:3}. {line}" for number, line in enumerate([*lines, text], 1))
        raise Story(f"{error}\n{story}") from error
