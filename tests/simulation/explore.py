"""Every schedule of a small world: a depth-first search over the scheduler's choices.

Two schedules that have led to the same state of the whole world (tables, queue, books, clock, what each invocation has
seen so far, what is left of the budget) continue alike, so the second one is counted and not executed again. The count
of schedules is still exact: it is the number of paths through the graph of states.

To execute a choice, the schedule up to it must be replayed in a new world. So the explorer checks first whether the
choice leads to a state that is known already (Lookahead).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.simulation.engine import Choice, Fiber, Invocation, Progress
from tests.simulation.invariants import Violation
from tests.simulation.simulated import FREEZE_SECONDS, SimulatedWorld


class Next(NamedTuple):
    """What a start may return: something that may start from then on. Its text must name all that it depends on."""

    text: str
    start: Callable[[SimulatedWorld], object]


type Later = tuple[str, Callable[[SimulatedWorld], object]]


@dataclass
class SmallWorld:
    """A small world, ready to be explored."""

    world: SimulatedWorld
    later: list[Later] = field(default_factory=list)  # may start at any moment
    passes: list[float] = field(default_factory=list)  # seconds that may pass, in this order, at any moment
    kills: int = 2
    faults: int = 2
    freezes: int = 0  # of a process, for longer than a lease and than its timeout
    redundant_faults: bool = False  # also execute faults that the code handles like another one
    at_the_end: Callable[[SimulatedWorld], None] = lambda _: None

    def state(self) -> int:
        left = (tuple(text for text, _ in self.later), tuple(self.passes), self.kills, self.faults, self.freezes)
        # The excused refunds and the answers to operators are part of the state, because the invariants depend on them.
        watch = self.world.watch
        return hash((self.world.state(), left, frozenset(watch.excused), frozenset(watch.decided)))

    def choices(self) -> list[Choice]:
        found: list[Choice] = []
        for invocation in self.world.live:
            for fiber in invocation.pending():
                found += self._of(fiber)
            if self.freezes and not invocation.outlives_timeout:
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
                if self.redundant_faults or not fault.redundant
            ]
        if self.kills:
            found.append(Choice("kill", f"{where}, then its process is killed", lambda: self._kill(fiber), fiber))
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
        """Returns a function that rolls back the calls made since, as often as it is called."""
        world, kills, faults = self.world.savepoint(), self.kills, self.faults

        def rollback() -> None:
            world()
            self.kills, self.faults = kills, faults

        return rollback


class Lookahead:
    """Predicts the state that a choice leads to, where this is possible without executing the choice.

    The effect of a call on the tables, the queue and the books is tried and rolled back. What its invocation does next
    is known if the same process saw the same results before: its behaviour depends on nothing else.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Progress, tuple[Any, ...]]] = {}  # by the sandbox's history, with its memory

    def learn(self, choice: Choice) -> None:
        """Call it right after the choice was executed."""
        if choice.fiber and choice.kind != "kill":
            invocation = choice.fiber.invocation
            self._known[invocation.sandbox.history] = (invocation.progress(), invocation.sandbox.memory())

    def states_after(self, small: SmallWorld, choices: Sequence[Choice]) -> list[int | None]:
        """None: it is not known, or an invariant breaks; the choice must be executed."""
        rollback = small.savepoint()
        return [self._state_after(small, choice, rollback) for choice in choices]

    def _state_after(self, small: SmallWorld, choice: Choice, rollback: Callable[[], None]) -> int | None:
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
            invocation.predicted, invocation.sandbox.predicted = known
            if invocation.ended:
                invocation.on_end(invocation)
            return small.state()
        except Violation:
            return None
        finally:
            invocation.dead, invocation.predicted, invocation.sandbox.predicted = False, None, None
            rollback()


@dataclass
class Explored:
    schedules: int = 0
    states: int = 0
    steps: int = 0  # choices actually taken, replays included
    endings: int = 0


class Counterexample(AssertionError):
    """A schedule that breaks an invariant, step by step."""


def explore(build: Callable[[], SmallWorld], lookahead: Lookahead | None = None) -> Explored:
    """Raises Counterexample at the first schedule that breaks an invariant."""
    lookahead = lookahead or Lookahead()
    found = Explored()
    counts: dict[int, int] = {}  # of the schedules that continue from a state

    def replayed(path: list[int]) -> tuple[SmallWorld, list[str]]:
        small, lines = build(), []
        for number in path:
            choice = small.choices()[number]
            lines.append(choice.text)
            found.steps += 1
            choice.take()
        return small, lines

    def visit(small: SmallWorld, path: list[int], lines: list[str]) -> int:
        key = small.state()
        if key in counts:
            small.world.abandon()
            return counts[key]
        choices = small.choices()
        found.states += 1
        if not choices:
            found.endings += 1
            _take(lines, "the end", lambda: _end(small))
            counts[key] = 1
            return 1
        total = 0
        unused = True  # the world is in this state until a choice is executed
        for number, state_after in enumerate(lookahead.states_after(small, choices)):
            if state_after in counts:
                total += counts[state_after]
                continue
            if not unused:
                small, lines = replayed(path)
                choices = small.choices()
            unused = False
            choice = choices[number]
            found.steps += 1
            _take(lines, choice.text, choice.take)
            lookahead.learn(choice)
            total += visit(small, [*path, number], [*lines, choice.text])
        if unused:
            small.world.abandon()
        counts[key] = total
        return total

    small, lines = replayed([])
    found.schedules = visit(small, [], lines)
    return found


def _end(small: SmallWorld) -> None:
    small.world.aftermath()
    small.at_the_end(small.world)
    small.world.watch.quiet(small.world)


def _take(lines: list[str], text: str, take: Callable[[], None]) -> None:
    try:
        take()
    except Violation as error:
        trace = "\n".join(f"  {number:3}. {line}" for number, line in enumerate([*lines, text], 1))
        raise Counterexample(f"{error}\n{trace}") from error
