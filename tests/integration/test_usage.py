"""docs/cost.md rests on what one status check and one refund use: here they are run and counted again."""

from __future__ import annotations

import pytest

from bench import usage
from bench.usage import MEASURED, Usage

KEPT = usage.load()
RENEW = "make cost"


@pytest.fixture(scope="module")
def today() -> dict[str, Usage]:
    return usage.measure(rounds=1)


def test_the_same_ways_are_counted(today: dict[str, Usage]) -> None:
    assert today.keys() == KEPT.keys(), RENEW


@pytest.mark.parametrize("way", KEPT)
def test_the_functions_make_the_calls_that_the_document_counts(today: dict[str, Usage], way: str) -> None:
    assert today[way].counted() == KEPT[way].counted(), RENEW


@pytest.mark.parametrize("way", KEPT)
def test_they_log_and_keep_as_many_bytes(today: dict[str, Usage], way: str) -> None:
    for name in set(MEASURED) - {"cpu_ms"}:  # which is the machine's
        assert getattr(today[way], name) == pytest.approx(getattr(KEPT[way], name), rel=0.03), f"{name}: {RENEW}"
