"""The wait before the next attempt."""

from __future__ import annotations

import random

# Waits between attempts while Indodana cannot take a refund: 2, 4, 8 s … up to a quarter of an hour.
BACKOFF_BASE_SECONDS = 2
BACKOFF_MAX_SECONDS = 900
# From the operating system: with SnapStart, every instance would start with the same state of Python's own generator.
JITTER = random.SystemRandom()


def backoff_seconds(attempts: int, retry_after_seconds: float | None = None) -> float:
    """The wait after so many attempts: it doubles, with some jitter, and is at least Indodana's Retry-After."""
    doubling: float = min(BACKOFF_MAX_SECONDS, BACKOFF_BASE_SECONDS * 2 ** min(max(attempts - 1, 0), 16))
    jitter = JITTER.uniform(1, 1.2)
    return max(doubling * jitter, retry_after_seconds or 0)
