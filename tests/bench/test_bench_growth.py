"""The checks of `make scale` fail for what grows faster than the work, and for nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from bench.capacity import Units
from bench.growth import Point, Usage, check_growth, exponent
from bench.metered import MeteredCall

SIZES = (1, 10, 100, 1000)


def points(calls: Callable[[int], float], seconds: Callable[[int], float] = float) -> list[Point]:
    return [
        Point(work, Usage(Counter({"dynamodb.TransactWriteItems": round(calls(work))}), seconds=seconds(work)))
        for work in SIZES
    ]


def failed(found: list[Point]) -> list[str]:
    return [check.text for check in check_growth("refunds", found) if not check.passed]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponent_is_the_power_of_the_work(power: float) -> None:
    assert exponent([(work, 3 * work**power) for work in SIZES]) == pytest.approx(power)


def test_linear_or_slower_growth_passes() -> None:
    assert failed(points(lambda work: 2 * work)) == []
    assert failed(points(lambda work: 2 * work + 1, lambda work: 0.1 + 0.02 * work)) == []


def test_extra_call_that_appears_with_size_fails() -> None:
    (text,) = failed(points(lambda work: 2 * work + (work if work > 100 else 0)))
    assert "calls to AWS" in text


def test_quadratic_time_fails() -> None:
    (text,) = failed(points(lambda work: work, lambda work: work**2))
    assert "time" in text


def test_units_used_only_at_the_largest_size_fail() -> None:
    found = points(lambda work: work)
    found[-1] = Point(1000, found[-1].usage + Usage(units=Units(read=5)))
    (text,) = failed(found)
    assert "read units" in text


def test_usage_does_not_count_the_pollers_calls() -> None:
    names = [("sqs", "ReceiveMessage"), ("sqs", "ChangeMessageVisibility"), ("dynamodb", "Query"), ("indodana", "x")]
    calls = [MeteredCall(*name, 0.0, 1.0, None) for name in names]
    polled = MeteredCall("sqs", "ReceiveMessage", 0.0, 1.0, None, is_poll=True)
    usage = Usage.of([*calls, polled], 1.0)
    assert (usage.calls_to_aws, usage.calls_to_indodana) == (3, 1)
