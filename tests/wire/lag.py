"""Measures how late threads of this process run, to tell a busy machine from a slow client."""

from __future__ import annotations

import threading
import time
from types import TracebackType

TICK_SECONDS = 0.005
# Smaller delays are normal.
COUNTED_SECONDS = 0.005


class Lag:
    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Lag:
        self._thread.start()
        return self

    def __exit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.is_set():
            before = time.monotonic()
            time.sleep(TICK_SECONDS)
            late = time.monotonic() - before - TICK_SECONDS
            if late > COUNTED_SECONDS:
                self._late.append((before, late))

    def seconds(self, since: float, until: float) -> float:
        """By how much calls in this time may be late because of the machine."""
        return sum(late for at, late in self._late if at + late + TICK_SECONDS >= since and at <= until)
