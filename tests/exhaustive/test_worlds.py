"""Every schedule of the small worlds, and some hundreds of seeds of the large one; see docs/correctness.md.

The mutants' own worlds are told of the code as it is, too: they show what breaks only after a certain beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from tests.simulation import storm
from tests.simulation.explore import Explored, Small, Story, explore
from tests.simulation.mutant_worlds import OWN_WORLDS, widened
from tests.simulation.simulated import installed
from tests.simulation.worlds import WORLDS

SEEDS = 300
# With a kill and a fault, and with two faults.
MUTANTS_WORLDS: dict[str, Callable[[], Small]] = {
    f"{name}, {kills} and {faults}": widened(build, kills, faults, twins=False)
    for name, build in OWN_WORLDS.items()
    for kills, faults in ((1, 1), (0, 2))
}
ALL = WORLDS | MUTANTS_WORLDS
# The rest takes seconds each.
LONG = ("one_message_d", "one_key_for_a", "one_refund_by_api_and", "two_", "a_refund_")
LONGEST_FIRST = sorted(ALL, key=lambda name: not name.startswith(LONG))


def explored(name: str) -> Explored | str:
    """For a worker process: an exception of ours would not survive the way back."""
    with installed():
        try:
            return explore(ALL[name])
        except Story as story:
            return str(story)


@pytest.fixture(scope="module")
def telling() -> Iterator[dict[str, Future[Any]]]:
    """All of it at once, on every processor."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        futures: dict[str, Future[Any]] = {name: pool.submit(explored, name) for name in LONGEST_FIRST}
        for seed in range(SEEDS):
            futures[f"seed {seed}"] = pool.submit(storm.tell, seed)
        yield futures
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", WORLDS)
def test_every_schedule_with_kills_and_faults_keeps_every_promise(
    name: str, telling: dict[str, Future[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    result = told(name, telling, capsys)

    assert result.schedules > 40  # a world in which nothing can go wrong would have one


@pytest.mark.parametrize("name", MUTANTS_WORLDS)
def test_every_schedule_of_the_mutants_worlds_keeps_every_promise(
    name: str, telling: dict[str, Future[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    result = told(name, telling, capsys)

    assert result.schedules > 1


def told(name: str, telling: dict[str, Future[Any]], capsys: pytest.CaptureFixture[str]) -> Explored:
    result = telling[name].result()
    assert isinstance(result, Explored), result
    with capsys.disabled():
        print(f"\n  {name}: {result.schedules:,} schedules, {result.states:,} states, {result.steps:,} steps", end="")
    return result


def test_hundreds_of_storms_keep_every_promise(
    telling: dict[str, Future[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    results = [telling[f"seed {seed}"].result() for seed in range(SEEDS)]

    broken = [f"seed {result['seed']}: {result['violation']}" for result in results if "violation" in result]
    assert not broken, "\n".join(broken)
    total = storm.merged([result["counts"] for result in results])
    with capsys.disabled():
        print(
            f"\n  {SEEDS} seeds: {total['steps']:,} steps, {total['kills']:,} kills, {total['faults']:,} faults", end=""
        )
    assert min(total[name] for name in ("kills", "faults", "SUCCEEDED", "FAILED", "UNKNOWN")) > 100


def test_a_seed_tells_the_same_story_each_time() -> None:
    first, second = storm.weather(7, story=True), storm.weather(7, story=True)

    assert first.lines == second.lines
    assert first.counts == second.counts
