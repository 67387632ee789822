"""Runs jobs in parallel: each spends its time waiting for AWS or Indodana."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


def in_threads[R](jobs: Sequence[Callable[[], R]]) -> list[R]:
    """One thread per job."""
    if not jobs:
        return []
    with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        return list(pool.map(lambda job: job(), jobs))
