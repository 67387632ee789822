"""Checks that calls, request units and time grow no faster than the work."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.capacity import NO_UNITS, Units
from bench.metered import MeteredCall

# Calls and units per piece of work at the largest size, over those at the settled size. Less than this is noise.
MAX_GROWTH = 1.1
# Total time grows as the work to this power at most. If each of 1,000 takes twice as long as each of 100, it is 1.09.
MAX_EXPONENT = 1.1
# From this size on, one-time costs (first read, connections) no longer show in the average.
SETTLED_WORK = 10

AWS_SERVICES = frozenset({"dynamodb", "sqs", "secretsmanager"})
POLLER = "poller"  # in place of the service, if Lambda's pollers made the call, and no function


@dataclass(frozen=True)
class Usage:
    """What some work used, counted from its calls."""

    operations: Counter[str] = field(default_factory=Counter)
    units: Units = NO_UNITS
    conflicts: int = 0
    """Calls that conflicted with another write of an item; each was repeated."""
    seconds: float = 0

    @classmethod
    def of(cls, calls: Iterable[MeteredCall], seconds: float) -> Usage:
        calls = list(calls)
        return cls(
            Counter(f"{POLLER if call.is_poll else call.service}.{call.operation}" for call in calls),
            sum((call.units for call in calls), NO_UNITS),
            sum(bool(call.conflicts) for call in calls),
            seconds,
        )

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.operations + other.operations,
            self.units + other.units,
            self.conflicts + other.conflicts,
            self.seconds + other.seconds,
        )

    @property
    def calls_to_aws(self) -> int:
        """Without those of the pollers."""
        return sum(count for name, count in self.operations.items() if name.partition(".")[0] in AWS_SERVICES)

    @property
    def calls_to_indodana(self) -> int:
        return sum(count for name, count in self.operations.items() if name.startswith("indodana."))


FIGURES: Mapping[str, Callable[[Usage], float]] = {
    "calls to AWS": lambda usage: usage.calls_to_aws,
    "calls to Indodana": lambda usage: usage.calls_to_indodana,
    "write units": lambda usage: usage.units.write,
    "index write units": lambda usage: usage.units.index_write,
    "read units": lambda usage: usage.units.read,
}


@dataclass(frozen=True)
class Point:
    work: int
    usage: Usage


@dataclass(frozen=True)
class Check:
    text: str
    passed: bool


def exponent(totals: Sequence[tuple[float, float]]) -> float:
    """The power of the work with which a total grows: the slope of a line fitted to their logarithms."""
    xs = [math.log(work) for work, _ in totals]
    ys = [math.log(total) for _, total in totals]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)


def check_growth(title: str, points: Sequence[Point], settled_work: int = SETTLED_WORK) -> list[Check]:
    """Compares the last point with the settled one; time by all points."""
    settled = next(point for point in points if point.work >= settled_work)
    last = points[-1]
    checks = []
    for name, figure in FIGURES.items():
        before, after = figure(settled.usage) / settled.work, figure(last.usage) / last.work
        if before or after:
            text = f"{title}: {name} for each at {last.work:,}, relative to {settled.work}"
            checks.append(_bounded(text, after / before if before else math.inf, MAX_GROWTH))
    return [*checks, check_time(title, [(point.work, point.usage.seconds) for point in points])]


def check_time(title: str, seconds: Sequence[tuple[float, float]]) -> Check:
    """`seconds`: pairs of a size and the total time for it."""
    return _bounded(f"{title}: time grows as the work to the power", exponent(seconds), MAX_EXPONENT)


def _bounded(text: str, value: float, maximum: float) -> Check:
    return Check(f"{text}: {value:.2f}, at most {maximum}", value <= maximum)
