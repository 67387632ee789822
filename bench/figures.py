"""What a figure is, when it is good enough, and when it has become worse."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

# Worse than the last release by more than this, and by more than so many times what a run scatters by itself.
NOISE = 0.10
NOISE_SPREADS = 3.0


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

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
        """For what must hold every time, and not for most times."""
        return cls.of([max(counts)])

    def rounded(self) -> Self:
        return type(self)(round(self.median, 4), round(self.low, 4), round(self.high, 4))

    @property
    def deviation(self) -> float:
        """Half of the distance between the quartiles: half of all samples are as near to the median as that."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Figure:
    """`value` is what is bounded; `measured`, where there is one, what it was made of."""

    key: str
    group: str
    title: str
    unit: str
    value: Spread
    over: str = ""
    """What a ratio is to."""
    bound: float | None = None
    measured: Spread | None = None
    measured_unit: str = "ms"
    is_ours: bool = True
    """Not a floor's, nor a peer's."""
    is_the_machines: bool = False
    """A time, not a ratio: another machine has another, so it is not compared with the release's."""

    @property
    def is_met(self) -> bool:
        return self.bound is None or self.value.median <= self.bound

    def is_worse_than(self, before: Figure) -> bool:
        """Beyond noise."""
        if self.is_the_machines or not self.is_ours:
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


def ratios(samples: Sequence[float], floors: Sequence[float]) -> list[float]:
    """Of each round to the same round's floor: a machine that slows down for a while slows both."""
    return [sample / floor for sample, floor in zip(samples, floors, strict=True)]
