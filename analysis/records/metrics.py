"""A run's metric from its stored items, for as many weightings of the items as a bootstrap needs.

A statistic takes rows of shape ``(items, columns)`` and weights of shape ``(draws, items)``, how often each item was
drawn, and returns shape ``(draws,)``: products of matrices, where a loop over draws takes a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.errors import AnalysisError
from harness.storage.outcomes import MEASURED

Array = NDArray[np.float64]
Rows = Callable[[pd.DataFrame], Array]
Statistic = Callable[[Array, Array], Array]
TOLERANCE = 1e-6
"""Relative; what is computed again must be the number that the record holds."""


@dataclass(frozen=True)
class Metric:
    """How a metric is made of items."""

    rows: Rows
    """Outcomes, columns as in ``items.parquet``, → what the statistic needs of each."""
    statistic: Statistic
    bounds: tuple[float, float] = (-np.inf, np.inf)
    """The least and the most that it can be."""


def mean(rows: Array, weights: Array) -> Array:
    """Return the mean of the first column."""
    return weights @ rows[:, 0] / weights.sum(1)


def ratio(rows: Array, weights: Array) -> Array:
    """Return Σ of the first column / Σ of the second, such as nats per token."""
    return (weights @ rows[:, 0]) / (weights @ rows[:, 1])


def perplexity(rows: Array, weights: Array) -> Array:
    """Return exp(Σ loss / Σ tokens)."""
    return np.exp(ratio(rows, weights))


def pearson(rows: Array, weights: Array) -> Array:
    """Return the correlation of two columns, NaN where one is constant."""
    rows = rows - rows.mean(0)  # far from zero, squares lose the digits that matter
    total = weights.sum(1)
    x, y, xx, yy, xy = (
        weights @ values / total for values in (*rows.T, rows[:, 0] ** 2, rows[:, 1] ** 2, rows.prod(1))
    )
    return _correlation(xy - x * y, xx - x * x, yy - y * y)


def spearman(rows: Array, weights: Array) -> Array:
    """Return the correlation of two columns' ranks, ties sharing their mean rank, within each draw."""
    ranks = [_ranks(column, weights) for column in rows.T]
    total = weights.sum(1, keepdims=True)
    x, y = (r - (weights * r).sum(1, keepdims=True) / total for r in ranks)
    return _correlation((weights * x * y).sum(1), (weights * x * x).sum(1), (weights * y * y).sum(1))


def _ranks(values: Array, weights: Array) -> Array:
    """Return each item's mean rank among the drawn: drawn items below it, and half of those that tie with it."""
    distinct, place = np.unique(values, return_inverse=True)
    by_value = weights @ np.eye(len(distinct))[place]
    ranks: Array = (np.cumsum(by_value, axis=1) - by_value / 2)[:, place]
    return ranks


def _correlation(together: Array, first: Array, second: Array) -> Array:
    known = (first > 1e-12) & (second > 1e-12)
    spread = np.sqrt(np.where(known, first * second, 1.0))
    return np.where(known, together / spread, np.nan)


def macro_f1(rows: Array, weights: Array) -> Array:
    """Return the mean over the labels that were drawn of 2 TP / (2 TP + FP + FN); rows are (target, prediction)."""
    targets, predictions = (np.equal.outer(column, np.unique(rows)).astype(float) for column in rows.T)
    right, both = weights @ (targets * predictions), weights @ (targets + predictions)
    drawn = both > 0
    return np.where(drawn, 2 * right / np.where(drawn, both, 1.0), 0.0).sum(1) / drawn.sum(1)


def _columns(*names: str) -> Rows:
    return lambda items: items[list(names)].to_numpy(dtype=float)


def _labels(items: pd.DataFrame) -> Array:
    codes, _ = pd.factorize(pd.concat([items["target"], items["prediction"]]))
    return codes.reshape(2, -1).T.astype(float)


def _overlaps(items: pd.DataFrame) -> Array:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(items["target"], items["prediction"], strict=True)
    return np.array([[scorer.score(target, answer)["rougeL"].fmeasure] for target, answer in pairs])


SHARE, CORRELATION = (0.0, 1.0), (-1.0, 1.0)
_SCORE = _columns("score")
METRICS: dict[str, Metric] = {
    "accuracy": Metric(_SCORE, mean, SHARE),
    "exact_match": Metric(_SCORE, mean, SHARE),
    "macro_f1": Metric(_labels, macro_f1, SHARE),
    "pearson": Metric(_columns("score", "target"), pearson, CORRELATION),
    "spearman": Metric(_columns("score", "target"), spearman, CORRELATION),
    "rouge_l": Metric(_overlaps, mean, SHARE),
    "perplexity": Metric(_columns("loss", "tokens"), perplexity, (1.0, np.inf)),
}
"""The metrics as :mod:`harness.tasks` define them; another one is the mean of its stored values, or of the scores."""


def _stored(name: str) -> Rows:
    """Return the reader of a metric that is not a task's own: its values by item, which the run wrote down."""

    def read(items: pd.DataFrame) -> Array:
        column = f"{MEASURED}{name}"
        known = column in items.columns and bool(items[column].notna().all())
        return items[[column if known else "score"]].to_numpy(dtype=float)

    return read


def metric_of(name: str) -> Metric:
    """Return how a metric is computed; :func:`rows_of` holds it against the record's number."""
    return METRICS.get(name) or Metric(_stored(name), mean)


def rows_of(name: str, items: pd.DataFrame, recorded: float, where: str) -> Array:
    """Return what a metric needs of each item, once it is seen that the record's number comes of it.

    Raises :class:`AnalysisError` where it does not: the items are another run's, or the metric is not known here.
    """
    metric = metric_of(name)
    try:
        rows = metric.rows(items)
        found = float(metric.statistic(rows, np.ones((1, len(rows))))[0])
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise AnalysisError(f"{where}: {name} cannot be computed of the items: {error}") from None
    if not np.isclose(found, recorded, rtol=TOLERANCE, atol=TOLERANCE):
        raise AnalysisError(f"{where}: the items give {name} {found:.6g}, the record says {recorded:.6g}")
    return rows
