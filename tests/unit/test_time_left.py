"""How much time a request has: the function's own, and never more than API Gateway waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from gateway.http.requests import time_left

NOW = 1_795_331_100.0


class Invocation:
    """Begun at NOW, with 29 s of its own."""

    def __init__(self) -> None:
        self.now = NOW

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def left(self, time_epoch: Any) -> Callable[[], float]:
        event = {"requestContext": {} if time_epoch is None else {"timeEpoch": time_epoch}}
        return time_left(event, lambda: 29 - (self.now - NOW), lambda: self.now)


@pytest.fixture
def invocation() -> Invocation:
    return Invocation()


def milliseconds(seconds_ago: float) -> int:
    return round((NOW - seconds_ago) * 1000)


def test_a_cold_start_is_taken_from_the_time_that_is_left(invocation: Invocation) -> None:
    left = invocation.left(milliseconds(5))
    assert left() == pytest.approx(24)
    invocation.passes(10)
    assert left() == pytest.approx(14)
    invocation.passes(15)
    assert left() < 0


def test_a_warm_function_has_all_of_its_own_time(invocation: Invocation) -> None:
    assert invocation.left(milliseconds(0))() == pytest.approx(29)
    assert invocation.left(milliseconds(0.02))() == pytest.approx(28.98)


@pytest.mark.parametrize("seconds_ago", [-0.5, -60.0])
def test_a_request_from_the_future_counts_as_taken_now(invocation: Invocation, seconds_ago: float) -> None:
    """One of two clocks is ahead."""
    left = invocation.left(milliseconds(seconds_ago))
    assert left() == 29
    invocation.passes(4)
    assert left() == 25


@pytest.mark.parametrize("seconds_ago", [30.001, 3600.0, NOW])
def test_a_request_for_which_nobody_waits_has_the_functions_time(invocation: Invocation, seconds_ago: float) -> None:
    """A sample event, or a clock that is wrong: it must not put off every refund."""
    assert invocation.left(milliseconds(seconds_ago))() == 29


def test_the_last_moment_at_which_somebody_waits_counts(invocation: Invocation) -> None:
    assert invocation.left(milliseconds(30))() == pytest.approx(-1)


@pytest.mark.parametrize(
    "time_epoch",
    [None, "1795331095000", True, [], {}, math.nan, math.inf, -math.inf, 0, -1, int(NOW)],
    ids=repr,
)
def test_an_odd_time_is_ignored(invocation: Invocation, time_epoch: Any) -> None:
    """The last one is `sam local`'s, which has seconds there."""
    assert invocation.left(time_epoch)() == 29


def test_a_function_that_ends_first_decides() -> None:
    left = time_left({"requestContext": {"timeEpoch": milliseconds(1)}}, lambda: 3.0, lambda: NOW)
    assert left() == 3
