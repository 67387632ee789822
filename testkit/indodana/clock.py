"""The simulated Indodana's clock: the real time, until the control API moves it."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

# West Indonesian time, in which Indodana counts days.
WIB = timezone(timedelta(hours=7))
# What the clock can show: far from the ends of what a datetime can hold, so that no arithmetic on it overflows.
YEARS = range(2000, 2100)


class Clock:
    def __init__(self, real: Callable[[], float]) -> None:
        self._real = real
        self._lock = threading.Lock()
        self._ahead = timedelta()

    def real_seconds(self) -> float:
        """The Unix time of this machine, which is never moved: callers sign with theirs."""
        return self._real()

    def now(self) -> datetime:
        return self._real_now() + self._ahead

    @property
    def seconds_ahead(self) -> float:
        """How far the clock is ahead of the real time; negative if it is behind."""
        return self._ahead.total_seconds()

    def move_to(self, now: datetime) -> None:
        with self._lock:
            self._ahead = now - self._real_now()

    def move_by(self, days: float) -> None:
        """Forward from where the clock stands; back if negative. Raises an OverflowError outside of YEARS."""
        with self._lock:
            ahead = self._ahead + timedelta(days=days)
            if (self._real_now() + ahead).year not in YEARS:
                raise OverflowError(f"{days} days lead out of the years that the clock can show")
            self._ahead = ahead

    def follow_real_time(self) -> None:
        with self._lock:
            self._ahead = timedelta()

    def _real_now(self) -> datetime:
        return datetime.fromtimestamp(self._real(), UTC)
