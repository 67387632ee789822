"""The circuit breakers: whether this process may call Indodana now.

    closed       calls are made
                 ── a call fails, or several in a row ──►  open for a moment
    open         no call is made
                 ── the time is over ──►  half-open
    half-open    one call is made, as a probe
                 ── Indodana answers it ──►  closed
                 ── anything else ──►  open, twice as long

Refunds and status checks have one each:

    refunds         A missing or unclear answer makes a refund UNKNOWN, and its reason (an outage, a proxy, an IP list)
                    would make the next refund UNKNOWN too. So one opens it. Refunds wait as QUEUED. The probe is the
                    order's status first and, if Indodana itself answers, one refund.
    status checks   A check that is not answered in time holds its function for seconds, and moves no money. Two in a
                    row open it: a single one says little. Callers get an error at once, and poll again.

They are separate: refunds of orders that the ledger knows need no status check, so a status check that is not answered
does not stop them. Calls that are under way when it opens cannot be stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from gateway.core.model import utc_now

# How long one answered refund is taken as proof that the next ones will be answered too.
PROVEN_SECONDS = 60


@dataclass(frozen=True)
class Rule:
    """When a breaker opens, and for how long: the wait doubles with each probe that fails."""

    opens_after: int  # failures in a row
    first_wait_seconds: float
    longest_wait_seconds: float


REFUNDS = Rule(opens_after=1, first_wait_seconds=2, longest_wait_seconds=300)
# A customer may be standing at the till: after Indodana is back, a process notices within half a minute.
STATUS_CHECKS = Rule(opens_after=2, first_wait_seconds=1, longest_wait_seconds=30)


class Admission(Enum):
    SEND = auto()
    PROBE = auto()
    WAIT = auto()


class AttemptResult(Enum):
    ANSWERED = auto()  # Indodana itself answered: with the refund's outcome, or the status check in time
    DOUBTFUL = auto()  # the refund's outcome is unknown, or the status check was not answered (in time)
    NOTHING = auto()  # no call was made, or its result says nothing about the next one


class CircuitBreaker:
    """Shared by the threads of one process. Uses the wall clock: a monotonic one stops while a function is frozen."""

    def __init__(self, rule: Rule, clock: Callable[[], datetime] = utc_now) -> None:
        self._rule = rule
        self._clock = clock
        self._lock = threading.Lock()  # no other code is called while it is held
        self._failures = 0  # in a row
        self._opened_at: datetime | None = None
        self._probing = False
        self._answered_at: datetime | None = None

    def admit(self) -> Admission:
        """Unless the answer is WAIT, the caller must `report` the result."""
        with self._lock:
            if not self._is_open:
                return Admission.SEND
            if self._probing or self._seconds_open() > 0:
                return Admission.WAIT
            self._probing = True
            return Admission.PROBE

    def report(self, admission: Admission, result: AttemptResult) -> None:
        with self._lock:
            if admission is Admission.PROBE:
                self._probing = False
            elif self._is_open:
                return  # called before another call failed, so it says nothing about the time since
            if result is AttemptResult.ANSWERED:
                self._failures = 0
                self._answered_at = self._clock()
            elif result is AttemptResult.DOUBTFUL:
                self._failures += 1
                self._opened_at = self._clock()

    def still_admits(self, admission: Admission) -> bool:
        """Checked again right before the refund is sent: another thread's refund may have failed meanwhile."""
        with self._lock:
            return admission is Admission.PROBE or not self._is_open

    @property
    def wait_seconds(self) -> float:
        with self._lock:
            return max(self._seconds_open(), self._rule.first_wait_seconds)

    @property
    def is_proven(self) -> bool:
        """Whether a refund was answered recently, so that several may be sent in parallel."""
        with self._lock:
            if self._failures or self._answered_at is None:
                return False
            return timedelta(0) <= self._clock() - self._answered_at <= timedelta(seconds=PROVEN_SECONDS)

    def memory(self) -> tuple[object, ...]:
        """The whole state, by which the simulation compares two processes."""
        return (self._failures, self._opened_at, self._probing, self._answered_at)

    @property
    def _is_open(self) -> bool:
        return self._failures >= self._rule.opens_after

    def _seconds_open(self) -> float:
        if self._opened_at is None:
            return 0.0
        probes_failed = min(self._failures - self._rule.opens_after, 16)
        wait = min(self._rule.longest_wait_seconds, self._rule.first_wait_seconds * 2**probes_failed)
        passed = (self._clock() - self._opened_at).total_seconds()
        return wait - passed if passed >= 0 else 0.0  # a clock that was set back must not keep it open forever
