"""The judgement of `make scale`: it must see what grows faster than its work, and leave alone what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from bench.growth import Point, Spent, exponent, judged
from bench.metered import MeteredCall

MARKS = (1, 10, 100, 1000)


def points(calls: Callable[[int], float], seconds: Callable[[int], float] = float) -> list[Point]:
    return [
        Point(work, Spent(Counter({"dynamodb.TransactWriteItems": round(calls(work))}), seconds=seconds(work)))
        for work in MARKS
    ]


def unmet(found: list[Point]) -> list[str]:
    return [judgement.text for judgement in judged("refunds", found) if not judgement.met]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_totals_power_is_found(power: float) -> None:
    assert exponent([(work, 3 * work**power) for work in MARKS]) == pytest.approx(power)


def test_what_grows_as_its_work_or_slower_is_met() -> None:
    assert unmet(points(lambda work: 2 * work)) == []
    assert unmet(points(lambda work: 2 * work + 1, lambda work: 0.1 + 0.02 * work)) == []


def test_a_call_more_for_each_is_seen_where_it_comes_with_size() -> None:
    (text,) = unmet(points(lambda work: 2 * work + (work if work > 100 else 0)))
    assert "calls to AWS" in text


def test_time_that_grows_with_the_square_is_seen() -> None:
    (text,) = unmet(points(lambda work: work, lambda work: work**2))
    assert "time" in text


def test_what_is_spent_only_with_much_work_is_seen() -> None:
    found = points(lambda work: work)
    found[-1] = Point(1000, found[-1].spent + Spent(read_units=5))
    (text,) = unmet(found)
    assert "read units" in text


def test_a_pollers_calls_are_not_the_functions() -> None:
    names = [("sqs", "ReceiveMessage"), ("sqs", "ChangeMessageVisibility"), ("dynamodb", "Query"), ("indodana", "x")]
    spent = Spent.of([MeteredCall(*name, 0.0, 1.0, None) for name in names], 1.0)
    assert (spent.calls_to_aws, spent.calls_to_indodana) == (2, 1)
