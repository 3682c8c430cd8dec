"""What groups of runs answered to the same items, and the estimate of an outcome from it: a metric, or forgetting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.effects.estimates import DRAWS, Estimate, drawn_items, estimates, resampled, resampled_change
from analysis.effects.variance import Array
from analysis.errors import AnalysisError
from analysis.metrics import TOLERANCE, Metric, Statistic, mean, metric_of, ratio, rows_of
from analysis.records import items
from harness.errors import HarnessError

SPLIT = "test"
ASKED = ["item", "target"]
PROBED = ["split", "item"]
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
    metric = metric_of(next(str(runs["metric"].iloc[0]) for _, runs in groups if runs["folder"].isin(list(read)).any()))
    usable = {label: [read[folder] for folder in runs["folder"] if folder in read] for label, runs in groups}
    rows = {label: np.stack(some) for label, some in usable.items() if some}
    return _answers(rows, metric, tuple(asked["item"]))


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


@dataclass(frozen=True)
class Probed:
    """What a run's probe answered before and after tuning, and the statistic whose change is the record's number."""

    asked: pd.DataFrame
    rows: Array
    """Shape ``(2, items, columns)``: of the base and of the tuned model."""
    statistic: Statistic
    bounds: tuple[float, float]
    """The least and the most that the statistic can be."""


def forgettings(groups: Sequence[tuple[str, pd.DataFrame]], problems: list[str]) -> list[Answers]:
    """Return each group's change of the probe that a run's forgetting is of, the items drawn alike for all of them.

    As :func:`answers`, which reads the task's own items; `rows` are those of the tuned models.
    """
    read: dict[str, Probed] = {}
    for run in (run for _, runs in groups for run in runs.itertuples()):
        try:
            read[str(run.folder)] = _same(probed(run), next(iter(read.values()), None), str(run.folder))
        except HarnessError as error:
            problems.append(str(error))
    usable = {label: [read[folder] for folder in runs["folder"] if folder in read] for label, runs in groups}
    made = {label: np.stack([one.rows for one in some]) for label, some in usable.items() if some}
    return _changes(made, next(iter(read.values()))) if made else []


def _changes(made: dict[str, Array], first: Probed) -> list[Answers]:
    count = len(first.asked)
    weights, ids = drawn_items(count, draws_of(count)), tuple(first.asked.agg("/".join, axis=1))
    drawn = [resampled_change(one[:, 0], one[:, 1], first.statistic, weights) for one in made.values()]
    found = estimates(drawn, first.bounds, count)
    return [
        Answers(label, ids, one[:, 1], estimate, (-np.inf, np.inf))
        for (label, one), estimate in zip(made.items(), found, strict=True)
    ]


def _same(found: Probed, first: Probed | None, folder: str) -> Probed:
    if first is not None and not (found.asked.equals(first.asked) and found.statistic is first.statistic):
        raise AnalysisError(f"{folder}: its probe read other items than the runs before it; it is left out")
    return found


def probed(run: Any) -> Probed:
    """Return the items of the probe that a run, a row of the tidy table, has its forgetting of.

    Of all its series together, else of one of them: Σ loss / Σ tokens, or the mean score, whichever changed by what the
    record says. Raises :class:`AnalysisError` where none did.
    """
    found = items(run.folder)
    prefix = f"forgetting/{str(run.forgetting_name).partition(' ')[0]}/"
    found = found[found["split"].str.startswith(prefix)].sort_values(["split", "item"])
    for some in (found, *(rows for _, rows in found.groupby("split"))):
        before, after = (some[some["phase"] == phase].reset_index(drop=True) for phase in ("before", "after"))
        if len(after) and before[PROBED].equals(after[PROBED]):
            for columns, statistic in ((["loss", "tokens"], ratio), (["score"], mean)):
                rows = np.stack([one[columns].to_numpy(dtype=float) for one in (before, after)])
                if np.isclose(_change(rows, statistic), run.forgetting, rtol=TOLERANCE, atol=TOLERANCE):
                    return Probed(after[PROBED], rows, statistic, _bounds(rows, statistic))
    raise AnalysisError(f"{run.folder}: no items give {run.forgetting_name} {run.forgetting:+.6g}, as the record says")


def _change(rows: Array, statistic: Statistic) -> float:
    before, after = (float(statistic(one, np.ones((1, len(one))))[0]) for one in rows)
    return after - before


def _bounds(rows: Array, statistic: Statistic) -> tuple[float, float]:
    if statistic is ratio:
        return 0.0, math.inf
    return (0.0, 1.0) if rows.min() >= 0 and rows.max() <= 1 else (-math.inf, math.inf)
