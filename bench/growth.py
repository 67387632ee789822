"""Whether what is spent grows faster than what is done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.capacity import NO_UNITS, Units
from bench.metered import MeteredCall

# What each piece of work takes may be so much more at the most work than at the settled one; the rest is noise.
MOST_GROWTH = 1.1
# The time of all work may grow as this power of it. Where each of 1,000 takes twice what each of 100 took, it is 1.09.
MOST_EXPONENT = 1.1
# What is spent once (the first read, connections) is spread over so much work, and no more to be seen.
SETTLED_WORK = 10

AWS_SERVICES = frozenset({"dynamodb", "sqs", "secretsmanager"})
# Not made by a function, but by Lambda and by whoever sends.
POLLING = frozenset({"ReceiveMessage", "DeleteMessage", "DeleteMessageBatch"})


@dataclass(frozen=True)
class Spent:
    """What some work took, counted from its calls."""

    operations: Counter[str] = field(default_factory=Counter)
    units: Units = NO_UNITS
    conflicts: int = 0
    """Calls that met another write of an item; each was made again."""
    seconds: float = 0

    @classmethod
    def of(cls, calls: Iterable[MeteredCall], seconds: float) -> Spent:
        calls = list(calls)
        return cls(
            Counter(f"{call.service}.{call.operation}" for call in calls),
            sum((call.units for call in calls), NO_UNITS),
            sum(bool(call.conflicts) for call in calls),
            seconds,
        )

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.operations + other.operations,
            self.units + other.units,
            self.conflicts + other.conflicts,
            self.seconds + other.seconds,
        )

    @property
    def calls_to_aws(self) -> int:
        """The functions' own."""
        return sum(
            count
            for name, count in self.operations.items()
            if name.partition(".")[0] in AWS_SERVICES and name.partition(".")[2] not in POLLING
        )

    @property
    def calls_to_indodana(self) -> int:
        return sum(count for name, count in self.operations.items() if name.startswith("indodana."))


FIGURES: Mapping[str, Callable[[Spent], float]] = {
    "calls to AWS": lambda spent: spent.calls_to_aws,
    "calls to Indodana": lambda spent: spent.calls_to_indodana,
    "write units": lambda spent: spent.units.write,
    "of the index": lambda spent: spent.units.index_write,
    "read units": lambda spent: spent.units.read,
}


@dataclass(frozen=True)
class Point:
    work: int
    spent: Spent


@dataclass(frozen=True)
class Judgement:
    text: str
    met: bool


def exponent(totals: Sequence[tuple[float, float]]) -> float:
    """The power of the work with which a total grows: the slope of the straight line through their logarithms."""
    xs = [math.log(work) for work, _ in totals]
    ys = [math.log(total) for _, total in totals]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)


def judged(title: str, points: Sequence[Point], settled_work: int = SETTLED_WORK) -> list[Judgement]:
    """Whether calls, units and time grew no faster than the work, from the settled point to the last."""
    settled = next(point for point in points if point.work >= settled_work)
    last = points[-1]
    judgements = []
    for name, figure in FIGURES.items():
        before, after = figure(settled.spent) / settled.work, figure(last.spent) / last.work
        if before or after:
            text = f"{title}: {name} for each at {last.work:,}, over those at {settled.work}"
            judgements.append(_bounded(text, after / before if before else math.inf, MOST_GROWTH))
    return [*judgements, time_judged(title, [(point.work, point.spent.seconds) for point in points])]


def time_judged(title: str, seconds: Sequence[tuple[float, float]]) -> Judgement:
    """`seconds`: each work with what all of it took."""
    return _bounded(f"{title}: time grows as the work to the power of", exponent(seconds), MOST_EXPONENT)


def _bounded(text: str, value: float, most: float) -> Judgement:
    return Judgement(f"{text}: {value:.2f}, at most {most}", value <= most)
