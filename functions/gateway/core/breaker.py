"""The circuit breaker: whether this process may send refunds now.

An answer that tells nothing, or none, makes a refund UNKNOWN, and what is behind it (an outage, a proxy, an IP list)
makes the next one UNKNOWN too. So after one such attempt a process waits, and then sends one refund alone:

    closed       refunds are sent
                 ── one ends UNKNOWN by what was answered, or not answered ──►  open for 2 s
    open         nothing is sent; refunds wait, QUEUED
                 ── the time is over ──►  half-open
    half-open    one probe: the order's status first and, if Indodana itself answers, one refund
                 ── Indodana says what became of it ──►  closed
                 ── anything else ──►  open, for twice as long, at most 5 minutes

Those that are on the way when the first one fails cannot be called back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum, auto

from gateway.core.model import utc_now

OPEN_BASE_SECONDS = 2
OPEN_MAX_SECONDS = 300
# How long an answer to a refund says that the next ones will be answered too.
PROVEN_SECONDS = 60


class Admission(Enum):
    SEND = auto()
    PROBE = auto()
    WAIT = auto()


class AttemptResult(Enum):
    ANSWERED = auto()  # Indodana itself said what became of the refund
    DOUBTFUL = auto()  # nobody knows what became of it, or of the probe's status check
    NOTHING = auto()  # it came to no answer that says something of the next one


class CircuitBreaker:
    """Shared by the threads of one process. The wall clock: a monotonic one stands still while a function is frozen."""

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # nothing is called under it
        self._failures = 0
        self._opened_at: datetime | None = None
        self._probing = False
        self._answered_at: datetime | None = None

    def admit(self) -> Admission:
        """Whoever is admitted must `report` what came of it."""
        with self._lock:
            if not self._failures:
                return Admission.SEND
            if self._probing or self._seconds_open() > 0:
                return Admission.WAIT
            self._probing = True
            return Admission.PROBE

    def report(self, admission: Admission, result: AttemptResult) -> None:
        with self._lock:
            if admission is Admission.PROBE:
                self._probing = False
                if result is AttemptResult.ANSWERED:
                    self._failures = 0
            elif self._failures:
                return  # sent before another's failure, so it says nothing of what was after it
            if result is AttemptResult.ANSWERED:
                self._answered_at = self._clock()
            elif result is AttemptResult.DOUBTFUL:
                self._failures += 1
                self._opened_at = self._clock()

    def still_admits(self, admission: Admission) -> bool:
        """Asked once more right before the refund is sent: another thread's may have failed since."""
        with self._lock:
            return admission is Admission.PROBE or not self._failures

    @property
    def wait_seconds(self) -> float:
        with self._lock:
            return max(self._seconds_open(), OPEN_BASE_SECONDS)

    @property
    def is_proven(self) -> bool:
        """Whether a refund was answered a moment ago, so that several may be sent at once."""
        with self._lock:
            if self._failures or self._answered_at is None:
                return False
            return timedelta(0) <= self._clock() - self._answered_at <= timedelta(seconds=PROVEN_SECONDS)

    def memory(self) -> tuple[object, ...]:
        """All that it knows, for the simulation to tell two processes apart."""
        return (self._failures, self._opened_at, self._probing, self._answered_at)

    def _seconds_open(self) -> float:
        if self._opened_at is None:
            return 0.0
        wait = min(OPEN_MAX_SECONDS, OPEN_BASE_SECONDS * 2 ** min(self._failures - 1, 16))
        passed = (self._clock() - self._opened_at).total_seconds()
        return wait - passed if passed >= 0 else 0.0  # a clock that was set back opens nothing for good
