"""What groups of runs answered to the same items, and the estimate of their metric from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.effects.estimates import DRAWS, Estimate, drawn_items, estimates, resampled
from analysis.effects.variance import Array
from analysis.errors import AnalysisError
from analysis.metrics import Metric, metric_of, rows_of
from analysis.records import items
from harness.errors import HarnessError

SPLIT = "test"
ASKED = ["item", "target"]
LEAST = 200
"""Draws; fewer tell nothing of a tail."""


@dataclass(frozen=True)
class Answers:
    """What a configuration's runs answered, the same items in the same order."""

    label: str
    ids: tuple[str, ...]
    rows: Array
    """What the metric needs of each item, shape ``(seeds, items, columns)``."""
    estimate: Estimate
    bounds: tuple[float, float]
    """The least and the most that the metric can be."""

    def interval(self) -> tuple[float, float]:
        """Return the interval of the mean over seeds, within what the metric can be."""
        low, high = self.estimate.interval()
        return max(low, self.bounds[0]), min(high, self.bounds[1])

    @property
    def graded(self) -> bool:
        """Return whether every answer is right or wrong and the metric their mean."""
        return self.rows.shape[2] == 1 and bool(np.isin(self.rows, (0.0, 1.0)).all())


def answers(groups: Sequence[tuple[str, pd.DataFrame]], problems: list[str]) -> list[Answers]:
    """Return the answers of each group of comparable runs, the items drawn alike for all of them.

    A run whose items cannot be read, or are not those of the others, is left out and said in `problems`.
    """
    read: dict[str, Array] = {}
    asked: pd.DataFrame | None = None
    for run in (run for _, runs in groups for run in runs[["folder", "metric", "score"]].itertuples()):
        try:
            found = _asked(run.folder, asked)
            read[run.folder] = rows_of(run.metric, found, run.score, run.folder)
            asked = found if asked is None else asked
        except HarnessError as error:
            problems.append(str(error))
    if asked is None:
        return []
    usable = {label: [read[folder] for folder in runs["folder"] if folder in read] for label, runs in groups}
    rows = {label: np.stack(some) for label, some in usable.items() if some}
    metric = next(str(runs["metric"].iloc[0]) for label, runs in groups if label in rows)
    return _answers(rows, metric_of(metric), tuple(asked["item"]))


def draws_of(items: int) -> int:
    """Return how many resamples fit: of 25,000 items or more fewer than usual, for 2000 would take 0.4 GB."""
    return max(LEAST, min(DRAWS, 5 * 10**7 // items))


def _asked(folder: str, first: pd.DataFrame | None) -> pd.DataFrame:
    """Return a run's answers on the test split in order of their ids; refuse other items than the first run's."""
    found = items(folder)
    found = found[(found["phase"] == "after") & (found["split"] == SPLIT)].sort_values("item").reset_index(drop=True)
    if found.empty:
        raise AnalysisError(f"{folder}/items.parquet: has no answers on the {SPLIT} split")
    if first is not None and not found[ASKED].equals(first[ASKED]):
        raise AnalysisError(f"{folder}: answered other items than the runs before it; it is left out")
    return found


def _answers(rows: dict[str, Array], metric: Metric, ids: tuple[str, ...]) -> list[Answers]:
    """Return the estimates of all groups on the same draws of the items, their seeds' variances moderated."""
    weights = drawn_items(len(ids), draws_of(len(ids)))
    drawn = [resampled(one, metric.statistic, weights) for one in rows.values()]
    found = estimates(drawn, metric.bounds, len(ids))
    return [
        Answers(label, ids, one, estimate, metric.bounds)
        for (label, one), estimate in zip(rows.items(), found, strict=True)
    ]
