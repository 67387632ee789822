"""Every mutant of the protocol dies, and of what docs/mutants.md says; see mutants.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Executor

import pytest

from tests.simulation import mutating
from tests.simulation.catalogue import BY_NAME, MUTANTS, Mutant
from tests.simulation.mutants import AT_A_TIME, TABLE, Running, begin, control


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with mutating.interpreters(AT_A_TIME) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def running(pool: Executor) -> dict[str, Running]:
    """All of them, in the background."""
    return {mutant.name: begin(pool, mutant.name) for mutant in MUTANTS}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_breaks_its_invariant(mutant: Mutant, running: dict[str, Running]) -> None:
    result = running[mutant.name].result()

    assert result.get("invariant") == mutant.invariant, result
    assert 0 < result["steps"] <= 20, result["story"]


def test_the_code_as_it_is_survives_all_that_was_told_of_the_mutants(
    pool: Executor, running: dict[str, Running]
) -> None:
    results = [told.result() for told in running.values()]

    survived = control(pool, (result for result in results if "world" in result)).result()

    assert "invariant" not in survived, survived
    assert survived["schedules"] > 100, survived


def test_the_docs_table_names_each_mutant_and_the_invariant_it_breaks() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \| (.+?) \| (.+?), ", TABLE.read_text(), re.MULTILINE)

    assert len(BY_NAME) == len(MUTANTS)
    assert rows == [(mutant.name, mutant.story, mutant.invariant, mutant.world.replace("_", " ")) for mutant in MUTANTS]
