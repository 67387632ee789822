"""Every schedule of the small worlds, and 300 seeds of random fault simulation; see docs/correctness.md.

The mutants' own worlds run with the unchanged code, too: some faults only show after a special beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from tests.simulation import random_runs
from tests.simulation.explore import Counterexample, Explored, SmallWorld, explore
from tests.simulation.mutant_worlds import OWN_WORLDS, widened
from tests.simulation.simulated import installed
from tests.simulation.worlds import WORLDS

SEEDS = 300
# One order of events each, written out: there is nothing to search.
TOLD = {"a_refund_that_kills_recovery", "runs_that_have_time_for_one_page"}
# With a kill and a fault, and with two faults.
MUTANT_WORLDS: dict[str, Callable[[], SmallWorld]] = {
    f"{name}, {kills} and {faults}": widened(build, kills, faults, redundant_faults=False)
    for name, build in OWN_WORLDS.items()
    if name not in TOLD
    for kills, faults in ((1, 1), (0, 2))
}
ALL = WORLDS | MUTANT_WORLDS | {name: OWN_WORLDS[name] for name in sorted(TOLD)}
# The rest takes seconds each.
LONG = ("one_message_d", "one_key_for_a", "one_refund_by_api_and", "two_", "a_refund_")
LONGEST_FIRST = sorted(ALL, key=lambda name: not name.startswith(LONG))


def explored(name: str) -> Explored | str:
    """For a worker process: our exceptions cannot be pickled."""
    with installed():
        try:
            return explore(ALL[name])
        except Counterexample as counterexample:
            return str(counterexample)


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, Future[Any]]]:
    """All of them at once, on all processors."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        futures: dict[str, Future[Any]] = {name: pool.submit(explored, name) for name in LONGEST_FIRST}
        for seed in range(SEEDS):
            futures[f"seed {seed}"] = pool.submit(random_runs.result_of, seed)
        yield futures
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", WORLDS)
def test_every_schedule_with_kills_and_faults_keeps_every_promise(
    name: str, results: dict[str, Future[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    result = explored_world(name, results, capsys)

    assert result.schedules > 40  # without kills and faults there would be one


@pytest.mark.parametrize("name", MUTANT_WORLDS)
def test_every_schedule_of_the_mutant_worlds_keeps_every_promise(
    name: str, results: dict[str, Future[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    result = explored_world(name, results, capsys)

    assert result.schedules > 1


@pytest.mark.parametrize("name", sorted(TOLD))
def test_a_world_that_is_told_keeps_every_promise(
    name: str, results: dict[str, Future[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert explored_world(name, results, capsys).schedules == 1


def explored_world(name: str, results: dict[str, Future[Any]], capsys: pytest.CaptureFixture[str]) -> Explored:
    result = results[name].result()
    assert isinstance(result, Explored), result
    with capsys.disabled():
        print(f"\n  {name}: {result.schedules:,} schedules, {result.states:,} states, {result.steps:,} steps", end="")
    return result


def test_300_seeds_of_random_faults_keep_every_promise(
    results: dict[str, Future[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    of_seeds = [results[f"seed {seed}"].result() for seed in range(SEEDS)]

    broken = [f"seed {result['seed']}: {result['violation']}" for result in of_seeds if "violation" in result]
    assert not broken, "\n".join(broken)
    total = random_runs.merged([result["counts"] for result in of_seeds])
    with capsys.disabled():
        print(
            f"\n  {SEEDS} seeds: {total['steps']:,} steps, {total['kills']:,} kills, {total['faults']:,} faults", end=""
        )
    assert min(total[name] for name in ("kills", "faults", "forged", "SUCCEEDED", "FAILED", "UNKNOWN")) > 100


def test_a_seed_gives_the_same_run_each_time() -> None:
    first, second = random_runs.run_seed(7, trace=True), random_runs.run_seed(7, trace=True)

    assert first.lines == second.lines
    assert first.counts == second.counts
