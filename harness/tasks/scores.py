"""What a model made of items, and metrics of it with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a model made of one item; a row of ``items.parquet``."""

    item: str
    prediction: str
    target: str
    score: float
    """Right or wrong as 1 or 0; for graded answers a share, for regression the predicted number."""
    loss: float = float("nan")
    """Negative log-likelihood of the target, in nats; NaN where there is none."""
    tokens: int = 0
    """Tokens that `loss` sums over; 0 where there is no loss."""
    measured: dict[str, float] = field(default_factory=dict)
    """Of each metric of ``task.metrics`` that scores items, this item's value; columns ``metric.<name>`` on disk."""


@dataclass(frozen=True)
class Score:
    """A metric with its 95 % interval over `n` items."""

    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool = True


def accuracy(outcomes: Iterable[Outcome]) -> Score:
    """Return the share of right answers with Wilson's 95 % interval."""
    from scipy.stats import binomtest

    scores = [outcome.score for outcome in outcomes]
    right = int(sum(scores))
    interval = binomtest(right, len(scores)).proportion_ci(method="wilson")
    return Score(right / len(scores), float(interval.low), float(interval.high), len(scores))


def bootstrap(
    values: Any, statistic: Callable[..., Any], higher_is_better: bool = True, stacked: bool = False
) -> Score:
    """Return `statistic` of per-item `values` with a seeded 95 % percentile bootstrap interval.

    `values` has shape ``(items,)`` or ``(items, columns)``; each resample draws whole items. With `stacked`,
    `statistic` takes many resamples at once, in a leading axis, and returns a value for each.
    """
    import numpy as np

    rows = np.asarray(values, dtype=float)
    resampled = _of_stacks(rows, statistic) if stacked else [statistic(rows[drawn[0]]) for drawn in _draws(rows, 1)]
    known = [value for value in resampled if not np.isnan(value)]
    low, high = np.percentile(known, [2.5, 97.5]) if known else (np.nan, np.nan)
    whole = statistic(rows[None])[0] if stacked else statistic(rows)
    return Score(float(whole), float(low), float(high), len(rows), higher_is_better)


def _of_stacks(rows: Any, statistic: Callable[..., Any]) -> list[float]:
    """Return the statistic of every resample; as many at once as a processor's cache holds."""
    at_once = max(1, 2**14 // max(1, len(rows)))
    return [float(value) for drawn in _draws(rows, at_once) for value in statistic(rows[drawn])]


def _draws(rows: Any, at_once: int) -> Iterator[Any]:
    """Yield the items of 1000 resamples, `at_once` in each array; what is drawn does not depend on it."""
    import numpy as np

    rng = np.random.default_rng(0)
    for start in range(0, 1000, at_once):
        yield rng.integers(0, len(rows), (min(at_once, 1000 - start), len(rows)))
