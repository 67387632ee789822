"""Runs many seeds, in several processes."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from tests.wire.checks import Violation, tallied, violations
from tests.wire.scene import run_seed

# Seeds wait most of the time.
AT_A_TIME = 4
CHUNK = 20


def run_seeds(first: int, seeds: int) -> tuple[list[Violation], Counter[str]]:
    """In this process."""
    found: list[Violation] = []
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for run in pool.map(run_seed, range(first, first + seeds)):
            found += violations(run)
            counts += tallied(run)
            counts["seeds"] += 1
    return found, counts


def run_in_processes(first: int, seeds: int) -> tuple[list[Violation], Counter[str]]:
    found: list[Violation] = []
    counts: Counter[str] = Counter()
    starts = range(first, first + seeds, CHUNK)
    sizes = [min(CHUNK, first + seeds - start) for start in starts]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for some, counted in pool.map(run_seeds, starts, sizes):
            found += some
            counts += counted
    return found, counts


def replayed(found: list[Violation]) -> list[Violation]:
    """Runs the seeds of violations again, each alone. Violations that a stalled machine caused disappear; a mistake in
    the client shows each time, because the server's behaviour depends only on the seed."""
    return [
        fault for seed in sorted({fault.seed for fault in found}) for _ in range(3) for fault in run_seeds(seed, 1)[0]
    ]


def summary(counts: Counter[str]) -> str:
    kinds: dict[str, list[str]] = {"": [], "outcome": [], "wire": []}
    for name in sorted(counts):
        kind, separator, rest = name.partition(": ")
        kinds[kind if separator else ""].append(f"{counts[name]:,} {rest or name}")
    return "\n".join(", ".join(names) for names in kinds.values())
