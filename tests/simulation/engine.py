"""A scheduler that owns every call that leaves the process.

Invocations run the real code in greenlets. A call to AWS or to Indodana does not happen when the code makes it: it is
put before the scheduler, which decides what happens next in the whole world:

    run      the call takes effect, and its invocation goes on to its next call
    fault    the call fails in one of the ways that it can fail
    kill     the call takes effect, and its invocation dies before it learns of it
             (to die before the call is to die after the one before it: nothing outside has changed in between)

Between two choices nothing outside changes, so a world's story is the list of its choices, and the same list tells it
again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from greenlet import getcurrent, greenlet


class Killed(BaseException):
    """The process is gone. Nothing in it catches this, and what it calls on its way down goes nowhere."""


@dataclass
class Fault:
    """One way for a call to go wrong. `happen` does what takes effect, and returns or raises what the code sees."""

    name: str
    happen: Callable[[], Any]
    leaves_doubt: bool = False  # nobody can know from it whether it was done
    twin: bool = False  # the code takes the same way as for an earlier fault of this call: left to the random worlds
    takes_time: bool = False  # others may run into their timeouts meanwhile, which cannot be taken back


@dataclass
class Call:
    name: str
    detail: str
    effect: Callable[[], Any]
    faults: Sequence[Fault] = ()
    refund_id: str | None = None  # whose truth hangs on it


@dataclass(frozen=True)
class Outcome:
    """What came of a call."""

    get: Callable[[], Any]  # as the code gets it: returned or raised
    seen: tuple[Any, ...]
    error: Exception | None = None


class CooperativeLock:
    """A lock among the fibers of one process: whoever finds it taken waits without stopping the world.

    Nobody gives up waiting: without the lock, two fibers are as two processes, which have a world of their own.
    """

    def __init__(self) -> None:
        self._taken = False

    def acquire(self, *, timeout: float | None = None) -> bool:
        while self._taken:
            current_fiber().wait(lambda: not self._taken)
        self._taken = True
        return True

    def release(self) -> None:
        self._taken = False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Fiber:
    """One thread of an invocation."""

    def __init__(self, invocation: Invocation, number: int, work: Callable[[], Any]) -> None:
        self.invocation = invocation
        self.number = number
        self.call: Call | None = None
        self.ready: Callable[[], bool] | None = None  # set while it waits for another fiber
        self.trace = 0  # digest of all that it has seen; with its code, it is its whole state
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._greenlet = greenlet(self._run)
        self._greenlet.fiber = self

    @property
    def done(self) -> bool:
        return self._greenlet.dead

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # the scheduler looks at it
            self.error = error

    def begin(self) -> None:
        """Runs to the first call."""
        self._greenlet.parent = getcurrent()
        self._greenlet.switch()

    def wait(self, ready: Callable[[], bool]) -> None:
        self.ready = ready
        hub().switch()
        self.ready = None

    def make(self, call: Call) -> Any:
        """Called from the fiber's own code: puts the call before the scheduler and waits for what comes of it."""
        if self.invocation.dead:
            raise Killed
        self.call = call
        outcome = hub().switch()
        self.call = None
        return outcome()

    def resume(self, outcome: Outcome) -> None:
        self.trace = hash((self.trace, outcome.seen))
        self._greenlet.parent = getcurrent()
        self._greenlet.switch(outcome.get)

    def go_on(self) -> None:
        self.ready = None
        self._greenlet.parent = getcurrent()
        self._greenlet.switch()

    def throw(self) -> None:
        if not self._greenlet.dead:
            self._greenlet.parent = getcurrent()
            self._greenlet.throw(Killed)


def current_fiber() -> Fiber:
    fiber: Fiber = getcurrent().fiber
    return fiber


def hub() -> greenlet:
    parent = getcurrent().parent
    assert parent is not None
    return parent


@dataclass(frozen=True)
class Standing:
    """Where an invocation stands between two calls, as far as others can tell."""

    state: tuple[Any, ...]
    ended: bool
    result: Any
    error: BaseException | None


@dataclass
class Invocation:
    """One run of a Lambda function: it ends with an answer, with an error, or by being killed."""

    name: str
    work: Callable[[], Any]
    deadline: float  # the world's seconds at which Lambda kills it
    on_end: Callable[[Invocation], None] = lambda _: None
    asked_at: int | None = None  # for what a caller is told: how many writes the ledger had seen when it asked
    sums_read: tuple[int, ...] = ()  # … and whenever it was shown its order's sums
    fibers: list[Fiber] = field(default_factory=list)
    dead: bool = False
    ids: int = 0  # how many random ids it has drawn
    sandbox: Any = None
    log_lines: list[str] = field(default_factory=list)
    foreseen: Standing | None = None  # set while it is looked at where a call would bring it, which is then taken back

    def start(self) -> None:
        self._add(self.work).begin()
        self.settle()

    def _add(self, work: Callable[[], Any]) -> Fiber:
        fiber = Fiber(self, len(self.fibers), work)
        self.fibers.append(fiber)
        return fiber

    @property
    def ended(self) -> bool:
        return self.dead or (self.foreseen.ended if self.foreseen else self.fibers[0].done)

    @property
    def result(self) -> Any:
        stands = self.foreseen or self.fibers[0]
        if stands.error is not None:
            raise stands.error
        return stands.result

    @property
    def outlives_its_time(self) -> bool:
        """It froze, and Lambda has not killed it in time."""
        return self.deadline == math.inf

    def pending(self) -> list[Fiber]:
        """The fibers that stand before a call."""
        return [] if self.dead else [fiber for fiber in self.fibers if fiber.call is not None and not fiber.done]

    def settle(self) -> None:
        """Lets every fiber go on that waited for another and need not any more."""
        while waiting := [
            fiber for fiber in self.fibers if fiber.ready is not None and not fiber.done and fiber.ready()
        ]:
            waiting[0].go_on()
        if self.ended:
            self.on_end(self)

    def kill(self) -> None:
        self.abandon()
        self.on_end(self)

    def abandon(self) -> None:
        self.dead = True
        for fiber in self.fibers:
            fiber.throw()

    def run_all(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """The worker's threads, as fibers."""
        me = current_fiber()
        threads = [self._add(job) for job in jobs]
        # The hub starts them; here they are only made, so that each stops at its first call.
        for thread in threads:
            thread.ready = lambda: True
        me.wait(lambda: all(thread.done for thread in threads))
        for thread in threads:
            if thread.error is not None:
                raise thread.error
        return [thread.result for thread in threads]

    def standing(self) -> Standing:
        main = self.fibers[0]
        return Standing(self._own_state(), self.ended, main.result, main.error)

    def state(self) -> tuple[Any, ...]:
        return (self.asked_at, self.foreseen.state if self.foreseen else self._own_state())

    def _own_state(self) -> tuple[Any, ...]:
        fibers = tuple((fiber.trace, fiber.call.name if fiber.call else None, fiber.done) for fiber in self.fibers)
        return (self.name, self.dead, self.deadline, fibers)


@dataclass(frozen=True)
class Choice:
    """What can happen next. `cost`: what it takes of the world's budget of kills and faults."""

    kind: str  # run | fault | kill | freeze | start | pass
    text: str
    take: Callable[[], None] = field(compare=False)
    fiber: Fiber | None = field(default=None, compare=False)  # whose call it is about, if it is about one
    fault: Fault | None = field(default=None, compare=False)


def happen(fiber: Fiber, fault: Fault | None = None) -> Outcome:
    """The call of this fiber happens, or fails; its invocation does not know yet."""
    call = fiber.call
    assert call is not None
    try:
        value = fault.happen() if fault else call.effect()
    except Exception as error:
        raised = error

        def get() -> Any:
            raise raised

        return Outcome(get, (call.name, type(error).__name__, str(error)), error)
    return Outcome(lambda: value, (call.name, fault.name if fault else None, _digest(value)))


def _digest(value: object) -> int:
    return hash(repr(value))
