"""A figure, its bound, and whether it is worse than in the last release."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

# A figure is worse than in the last release if it differs by more than both: this share, and this many deviations.
NOISE = 0.10
NOISE_SPREADS = 3.0


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        if len(set(samples)) == 1:
            return cls(samples[0], samples[0], samples[0])
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high)

    @classmethod
    def worst(cls, counts: Sequence[float]) -> Self:
        """For what must hold every time, not only in the median."""
        return cls.of([max(counts)])

    def rounded(self) -> Self:
        return type(self)(round(self.median, 4), round(self.low, 4), round(self.high, 4))

    @property
    def deviation(self) -> float:
        """Half the interquartile range."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Figure:
    """`value` is compared with the bound; `measured` is what a ratio was calculated from."""

    key: str
    group: str
    title: str
    unit: str
    value: Spread
    over: str = ""
    """The denominator of a ratio."""
    bound: float | None = None
    measured: Spread | None = None
    measured_unit: str = "ms"
    is_ours: bool = True
    """The gateway's, not a floor's or a peer's."""
    machine_dependent: bool = False
    """A time instead of a ratio: not compared with the last release's."""

    @property
    def is_met(self) -> bool:
        return self.bound is None or self.value.median <= self.bound

    def is_worse_than(self, before: Figure) -> bool:
        """By more than noise."""
        if self.machine_dependent or not self.is_ours:
            return False
        worse_by = self.value.median - before.value.median
        scatter = max(self.value.deviation, before.value.deviation)
        return worse_by > NOISE * before.value.median and worse_by > NOISE_SPREADS * scatter

    def to_json(self) -> dict[str, Any]:
        kept = replace(self, value=self.value.rounded(), measured=self.measured and self.measured.rounded())
        return {name: value for name, value in asdict(kept).items() if name != "key"}

    @classmethod
    def from_json(cls, key: str, fields: Mapping[str, Any]) -> Self:
        spreads = {name: Spread(**fields[name]) for name in ("value", "measured") if fields[name]}
        return cls(key=key, **{**fields, **spreads})


def rotated[T](items: Sequence[T], by: int) -> list[T]:
    """So that over many rounds none always follows the same one."""
    first = by % len(items)
    return [*items[first:], *items[:first]]


def ratios(samples: Sequence[float], floors: Sequence[float]) -> list[float]:
    """Each round's sample over the same round's floor: when the machine slows down for a while, both slow down."""
    return [sample / floor for sample, floor in zip(samples, floors, strict=True)]
