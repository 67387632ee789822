"""Every mutant of the signing layer breaks the check that it names; see mutants.py."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from tests.simulation import mutating
from tests.wire.mutants import AT_A_TIME, MUTANTS, Mutant, begin


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """All of them, in the background."""
    with mutating.interpreters(AT_A_TIME) as pool:
        yield {mutant.name: begin(pool, mutant.name) for mutant in MUTANTS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_breaks_its_check(mutant: Mutant, running: dict[str, Future[dict[str, Any]]]) -> None:
    result = running[mutant.name].result()

    assert "violation" in result, result
