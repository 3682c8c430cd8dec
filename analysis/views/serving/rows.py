"""From timings to rows: medians with ranges, and ratios against the base taken within each turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from scipy.stats import quantile_test

from analysis.views.serving.measure import Timed


class Middle(NamedTuple):
    """A median with the least and the greatest value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """How many times as long a form takes as another: the median over turns with its 95 % interval."""

    value: float
    low: float
    high: float
    turns: int

    def verdict(self, margin: float) -> str:
        """Return what the interval shows; differences below `margin` are called none."""
        if self.high < 1 + margin:
            return f"no added latency of {margin:.0%} or more"
        if self.low > 1:
            return f"slower, by at least {self.low - 1:.1%}"
        return f"undecided: up to {self.high - 1:.1%} more is possible"


def middle(values: Sequence[float]) -> Middle:
    """Return the median and range."""
    return Middle(median(values), min(values), max(values))


def ratio(of: Sequence[Timed], against: Sequence[Timed], measure: Callable[[Timed], float]) -> Ratio:
    """Return the median of the turns' ratios; its interval has the order statistics that the binomial test gives.

    Both sides of a ratio were measured in the same turn, so that a machine whose speed drifts slows both.
    """
    values = [measure(one) / measure(other) for one, other in zip(of, against, strict=True)]
    interval = quantile_test(values, p=0.5).confidence_interval(confidence_level=0.95)
    return Ratio(median(values), float(interval.low), float(interval.high), len(values))
