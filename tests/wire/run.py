"""Many seeds, in some processes."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from tests.wire.checks import Fault, faults, tallied
from tests.wire.scene import tell

# They wait more than they work.
AT_A_TIME = 4
PIECE = 20


def many(first: int, seeds: int) -> tuple[list[Fault], Counter[str]]:
    """In this process."""
    found: list[Fault] = []
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for told in pool.map(tell, range(first, first + seeds)):
            found += faults(told)
            counts += tallied(told)
            counts["seeds"] += 1
    return found, counts


def everywhere(first: int, seeds: int) -> tuple[list[Fault], Counter[str]]:
    found: list[Fault] = []
    counts: Counter[str] = Counter()
    starts = range(first, first + seeds, PIECE)
    sizes = [min(PIECE, first + seeds - start) for start in starts]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for some, counted in pool.map(many, starts, sizes):
            found += some
            counts += counted
    return found, counts


def once_more(found: list[Fault]) -> list[Fault]:
    """Of faults those whose seed shows one when it is told alone, too: a machine that stands still for a moment makes
    others. A mistake in the client shows each time, for what the server does hangs on the seed."""
    return [fault for seed in sorted({fault.seed for fault in found}) for _ in range(3) for fault in many(seed, 1)[0]]


def summary(counts: Counter[str]) -> str:
    kinds: dict[str, list[str]] = {"": [], "verdict": [], "wire": []}
    for name in sorted(counts):
        kind, separator, rest = name.partition(": ")
        kinds[kind if separator else ""].append(f"{counts[name]:,} {rest or name}")
    return "\n".join(", ".join(names) for names in kinds.values())
