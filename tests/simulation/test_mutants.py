"""Every mutant of the protocol dies, and of what docs/mutants.md says; see mutants.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.simulation.mutant_catalogue import BY_NAME, MUTANTS, Mutant
from tests.simulation.mutants import AT_A_TIME, TABLE, control, run_apart

type Running = dict[str, Future[dict[str, Any]]]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """All of them in the background, each in a process of its own."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {mutant.name: pool.submit(run_apart, mutant.name) for mutant in MUTANTS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_breaks_its_invariant(mutant: Mutant, running: Running) -> None:
    result = running[mutant.name].result()

    assert result.get("invariant") == mutant.invariant, result
    assert 0 < result["steps"] <= 20, result["story"]


def test_the_code_as_it_is_survives_all_that_was_told_of_the_mutants(running: Running) -> None:
    results = [future.result() for future in running.values()]

    survived = control(result for result in results if "world" in result)

    assert "invariant" not in survived, survived
    assert survived.get("schedules", 0) > 100, survived


def test_the_table_in_the_docs_names_the_mutants_that_exist_and_what_they_die_of() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \| (.+?) \| (.+?), ", TABLE.read_text(), re.MULTILINE)

    assert len(BY_NAME) == len(MUTANTS)
    assert rows == [(mutant.name, mutant.story, mutant.invariant, mutant.world.replace("_", " ")) for mutant in MUTANTS]
