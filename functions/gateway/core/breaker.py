"""The circuit breaker: whether this process may send refunds now.

A missing or unclear answer makes a refund UNKNOWN, and its reason (an outage, a proxy, an IP list) would make the next
refund UNKNOWN too. So after one such attempt a process waits, and then sends a single refund as a probe:

    closed       refunds are sent
                 ── a refund ends UNKNOWN because of the answer, or without one ──►  open for 2 s
    open         nothing is sent; refunds wait as QUEUED
                 ── the time is over ──►  half-open
    half-open    one probe: the order's status first and, if Indodana itself answers, one refund
                 ── Indodana answers with the refund's outcome ──►  closed
                 ── anything else ──►  open, twice as long, at most 5 minutes

Refunds that are already being sent when the first one fails cannot be stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum, auto

from gateway.core.model import utc_now

OPEN_BASE_SECONDS = 2
OPEN_MAX_SECONDS = 300
# How long one answered refund is taken as proof that the next ones will be answered too.
PROVEN_SECONDS = 60


class Admission(Enum):
    SEND = auto()
    PROBE = auto()
    WAIT = auto()


class AttemptResult(Enum):
    ANSWERED = auto()  # Indodana itself answered with the outcome
    DOUBTFUL = auto()  # the outcome is unknown, or the probe's status check was not answered
    NOTHING = auto()  # no call was made, or its result says nothing about the next one


class CircuitBreaker:
    """Shared by the threads of one process. Uses the wall clock: a monotonic one stops while a function is frozen."""

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # no other code is called while it is held
        self._failures = 0
        self._opened_at: datetime | None = None
        self._probing = False
        self._answered_at: datetime | None = None

    def admit(self) -> Admission:
        """Unless the answer is WAIT, the caller must `report` the result."""
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
                return  # sent before another refund failed, so it says nothing about the time since
            if result is AttemptResult.ANSWERED:
                self._answered_at = self._clock()
            elif result is AttemptResult.DOUBTFUL:
                self._failures += 1
                self._opened_at = self._clock()

    def still_admits(self, admission: Admission) -> bool:
        """Checked again right before the refund is sent: another thread's refund may have failed meanwhile."""
        with self._lock:
            return admission is Admission.PROBE or not self._failures

    @property
    def wait_seconds(self) -> float:
        with self._lock:
            return max(self._seconds_open(), OPEN_BASE_SECONDS)

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

    def _seconds_open(self) -> float:
        if self._opened_at is None:
            return 0.0
        wait = min(OPEN_MAX_SECONDS, OPEN_BASE_SECONDS * 2 ** min(self._failures - 1, 16))
        passed = (self._clock() - self._opened_at).total_seconds()
        return wait - passed if passed >= 0 else 0.0  # a clock that was set back must not keep it open forever
