"""Order locks: one thread of a process writes to an order at a time, because simultaneous writes conflict and retry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from gateway.core.model import OrderKey

# Longer than a write takes. A thread must not wait longer for one that hangs: it has an outcome of its own to write.
LOCK_SECONDS = 1
LOCKED_ORDERS = 1000


class Lock(Protocol):
    """As in `threading`."""

    def acquire(self, *, timeout: float) -> bool: ...

    def release(self) -> None: ...


class OrderLocks:
    def __init__(self, new_lock: Callable[[], Lock] = threading.Lock) -> None:
        self._new_lock = new_lock
        self._locks: dict[OrderKey, Lock] = {}

    @contextmanager
    def held(self, order: OrderKey) -> Iterator[None]:
        """Waits at most LOCK_SECONDS, then continues without the lock: correctness does not depend on it."""
        if len(self._locks) >= LOCKED_ORDERS:
            self._locks.clear()
        lock = self._locks.setdefault(order, self._new_lock())
        acquired = lock.acquire(timeout=LOCK_SECONDS)
        try:
            yield
        finally:
            if acquired:
                lock.release()
