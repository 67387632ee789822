"""A scheduler that decides about every call that leaves the process.

Invocations run the real code in greenlets. A call to AWS or to Indodana does not happen when the code makes it. The
invocation waits, and the scheduler decides what happens next in the whole world:

    run      the call takes effect, and its invocation continues to its next call
    fault    the call fails in one of the ways that it can fail
    kill     the call takes effect, and its process is killed before it sees the result
             (a kill before the call is a kill after the previous call: nothing outside has changed in between)

Between two choices nothing outside changes. So a schedule is a list of choices, and the same list replays it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from greenlet import getcurrent, greenlet


class Killed(BaseException):
    """The process was killed. No code in it catches this, and calls that it makes while it unwinds have no effect."""


@dataclass
class Fault:
    """One way in which a call can fail. `happen` makes the effect, and returns or raises what the code sees."""

    name: str
    happen: Callable[[], Any]
    leaves_doubt: bool = False  # the code cannot know whether the call took effect
    redundant: bool = False  # handled like an earlier fault of this call: only in random runs
    takes_time: bool = False  # other invocations may time out meanwhile, which cannot be rolled back


@dataclass
class Call:
    name: str
    detail: str
    effect: Callable[[], Any]
    faults: Sequence[Fault] = ()
    refund_id: str | None = None  # the refund whose outcome depends on it


@dataclass(frozen=True)
class Outcome:
    """The result of a call."""

    get: Callable[[], Any]  # returns or raises it, for the code
    seen: tuple[Any, ...]
    error: Exception | None = None


class CooperativeLock:
    """A lock among the fibers of one process: a fiber that waits for it does not stop the world.

    No timeout: without the lock, two fibers behave like two processes, which other worlds test.
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
        self.trace = 0  # digest of all results that it has seen; with its code, this is its whole state
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
        """Called by the fiber's own code: hands the call to the scheduler and waits for its result."""
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
class Progress:
    """An invocation between two calls, as far as others can see it."""

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
    taken_at: float | None = None  # when API Gateway took its request, by the world's clock
    asked_at: int | None = None  # how many writes the ledger had when the request came, to check its answer
    sums_read: tuple[int, ...] = ()  # … and each time it read its order's sums
    fibers: list[Fiber] = field(default_factory=list)
    dead: bool = False
    ids: int = 0  # how many random ids it has drawn
    sandbox: Any = None
    log_lines: list[str] = field(default_factory=list)
    predicted: Progress | None = None  # set while the lookahead tries a call, which is then rolled back

    def start(self) -> None:
        self._add(self.work).begin()
        self.settle()

    def _add(self, work: Callable[[], Any]) -> Fiber:
        fiber = Fiber(self, len(self.fibers), work)
        self.fibers.append(fiber)
        return fiber

    @property
    def ended(self) -> bool:
        return self.dead or (self.predicted.ended if self.predicted else self.fibers[0].done)

    @property
    def result(self) -> Any:
        progress = self.predicted or self.fibers[0]
        if progress.error is not None:
            raise progress.error
        return progress.result

    @property
    def outlives_timeout(self) -> bool:
        """It froze, and Lambda has not killed it in time."""
        return self.deadline == math.inf

    def pending(self) -> list[Fiber]:
        """The fibers that wait for the result of a call."""
        return [] if self.dead else [fiber for fiber in self.fibers if fiber.call is not None and not fiber.done]

    def settle(self) -> None:
        """Resumes every fiber that waited for another one and need not wait any more."""
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
        # They are only created here; the hub starts them, so that each stops at its first call.
        for thread in threads:
            thread.ready = lambda: True
        me.wait(lambda: all(thread.done for thread in threads))
        for thread in threads:
            if thread.error is not None:
                raise thread.error
        return [thread.result for thread in threads]

    def progress(self) -> Progress:
        main = self.fibers[0]
        return Progress(self._own_state(), self.ended, main.result, main.error)

    def state(self) -> tuple[Any, ...]:
        return (self.asked_at, self.predicted.state if self.predicted else self._own_state())

    def _own_state(self) -> tuple[Any, ...]:
        fibers = tuple((fiber.trace, fiber.call.name if fiber.call else None, fiber.done) for fiber in self.fibers)
        return (self.name, self.dead, self.deadline, fibers)


@dataclass(frozen=True)
class Choice:
    """Something that can happen next."""

    kind: str  # run | fault | kill | freeze | start | pass
    text: str
    take: Callable[[], None] = field(compare=False)
    fiber: Fiber | None = field(default=None, compare=False)  # whose call it is, if it is about a call
    fault: Fault | None = field(default=None, compare=False)


def happen(fiber: Fiber, fault: Fault | None = None) -> Outcome:
    """The call of this fiber takes effect, or fails; its invocation has not seen the result yet."""
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
