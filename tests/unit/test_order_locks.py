"""Order locks: who takes turns, and who goes on without one."""

from __future__ import annotations

import pytest

from gateway.core.model import OrderKey
from gateway.core.order_locks import LOCKED_ORDERS, OrderLocks

ORDER = OrderKey("m1", "ORDER-1")


class Locks:
    """Makes locks that are had, or not, as `free` says."""

    def __init__(self) -> None:
        self.free = True
        self.calls: list[tuple[str, int]] = []
        self._made = 0

    def __call__(self) -> Lock:
        self._made += 1
        return Lock(self, self._made)


class Lock:
    def __init__(self, locks: Locks, number: int) -> None:
        self._locks = locks
        self._number = number

    def acquire(self, *, timeout: float) -> bool:
        assert timeout == 1
        self._locks.calls.append(("acquired" if self._locks.free else "waited", self._number))
        return self._locks.free

    def release(self) -> None:
        self._locks.calls.append(("released", self._number))


def test_a_lock_is_given_back_whatever_happens_under_it() -> None:
    locks = Locks()

    def fail() -> None:
        with OrderLocks(locks).held(ORDER):
            assert locks.calls == [("acquired", 1)]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert locks.calls == [("acquired", 1), ("released", 1)]


def test_who_waited_long_enough_goes_on_and_releases_nothing() -> None:
    locks = Locks()
    locks.free = False
    with OrderLocks(locks).held(ORDER):
        pass
    assert locks.calls == [("waited", 1)]


def test_locks_are_forgotten_at_their_limit() -> None:
    locks = Locks()
    of_orders = OrderLocks(locks)

    def lock_of(order: OrderKey) -> int:
        with of_orders.held(order):
            return locks.calls[-1][1]

    first = lock_of(ORDER)
    for number in range(LOCKED_ORDERS - 2):
        lock_of(OrderKey("m2", str(number)))
    assert lock_of(ORDER) == first
    lock_of(OrderKey("m2", "one more"))
    assert lock_of(ORDER) != first
    assert lock_of(ORDER) == lock_of(ORDER)
