"""Outcomes: what a run's stored items and numbers say of it, so that configurations can be compared in it.

An outcome is the task's metric, how much training changed it, the change of a probe, or a cost. Each is read from one
run as rows of items and a statistic; a number that no items stand behind, such as seconds, is a single item.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.effects.variance import Array
from analysis.errors import AnalysisError
from analysis.records import items
from analysis.records.metrics import TOLERANCE, Statistic, mean, metric_of, ratio, rows_of
from harness.errors import ConfigError, nearest

SPLIT = "test"
ASKED = ["item", "target"]
PROBED = ["split", "item"]
Run = dict[Any, Any]
"""A row of the tidy table."""


@dataclass(frozen=True)
class Read:
    """What one run says of an outcome."""

    asked: pd.DataFrame
    """What was asked: runs that answered other items are not compared."""
    after: Array
    """What the statistic needs of each item, shape ``(items, columns)``."""
    before: Array | None
    """The same of the untouched model, where the outcome is a change; else None."""
    statistic: Statistic
    bounds: tuple[float, float]
    """The least and the most that the level after training can be."""
    clusters: Array | None = None
    """Numbers of what items share, such as a passage, shape ``(items,)``; None where each stands for itself."""

    @property
    def units(self) -> int:
        """Return how many items, or clusters of them, were drawn by whoever collected them."""
        return len(self.after) if self.clusters is None else len(np.unique(self.clusters))

    @property
    def graded(self) -> bool:
        """Return whether every answer is right or wrong and the statistic their mean."""
        several = len(self.after) > 1 and self.after.shape[1] == 1
        return several and bool(np.isin(self.after, (0.0, 1.0)).all())


@dataclass(frozen=True)
class Outcome:
    """What configurations are compared in; its columns are those of the tidy table."""

    key: str
    """As a command line names it."""
    column: str
    """The column with a run's number; `column`_low and _high, or those of `ends`, are its own interval."""
    read: Callable[[Run], Read]
    named: str = ""
    """The column with its name; where there is none, `key` is the name."""
    direction: str | bool = True
    """Whether higher is better, or the column that says so."""
    same: tuple[str, ...] = ()
    """Columns that runs which may be compared share."""
    ends: tuple[str, str] | None = None
    stream: int = 0
    """Outcomes of one stream draw their items alike; those of another read other items."""
    relative: bool = False
    """Whether the margin is a share of the level, as of seconds, and no number of the outcome's unit."""
    verb: str = ""
    """What the one that is ahead does, such as ``forgets less``; where there is none, it is better."""

    def title(self, run: Run) -> str:
        """Return the outcome's name, such as ``accuracy``."""
        return str(run[self.named]) if self.named else self.key.replace("_", " ")

    def higher_is_better(self, run: Run) -> bool:
        """Return the direction; an outcome that says none is better higher."""
        found = run.get(self.direction) if isinstance(self.direction, str) else self.direction
        return True if found is None or pd.isna(found) else bool(found)

    def recorded(self, run: Run) -> tuple[float, float]:
        """Return a run's own interval, NaN where it has none."""
        low, high = self.ends or (f"{self.column}_low", f"{self.column}_high")
        found = [run.get(name, math.nan) for name in (low, high)]
        return (math.nan, math.nan) if any(pd.isna(one) for one in found) else (float(found[0]), float(found[1]))


def _answers(run: Run, phase: str) -> pd.DataFrame:
    """Return a run's answers on the test split in order of their ids."""
    found = items(run["folder"])
    found = found[(found["phase"] == phase) & (found["split"] == SPLIT)].sort_values("item").reset_index(drop=True)
    if found.empty:
        raise AnalysisError(f"{run['folder']}/items.parquet: has no answers on the {SPLIT} split")
    return found


def read_metric(run: Run) -> Read:
    """Return a run's answers on the test split; its metric computed of them must be the record's number."""
    found, metric = _answers(run, "after"), metric_of(str(run["metric"]))
    rows = rows_of(str(run["metric"]), found, run["score"], str(run["folder"]))
    return Read(found[ASKED], rows, None, metric.statistic, metric.bounds, clustered(found))


def clustered(found: pd.DataFrame) -> Array | None:
    """Return numbers of the clusters of items; None where no two share one, or a file from before has none."""
    if "cluster" not in found or found["cluster"].is_unique:
        return None
    return pd.factorize(found["cluster"])[0].astype(float)


def read_gain(run: Run) -> Read:
    """Return what training changed of the metric: the answers of the untouched model besides."""
    after, found = read_metric(run), _answers(run, "before")
    if not found[ASKED].equals(after.asked):
        raise AnalysisError(f"{run['folder']}/items.parquet: the untouched model answered other items")
    rows = rows_of(str(run["metric"]), found, run["base"], str(run["folder"]))
    return replace(after, before=rows)


def read_number(column: str) -> Callable[[Run], Read]:
    """Return the reader of a positive number that a run has once, such as its seconds."""

    def read(run: Run) -> Read:
        value = run.get(column)
        if value is None or pd.isna(value):
            raise AnalysisError(f"{run['folder']}: has no {column}")
        return Read(pd.DataFrame({"item": [column]}), np.array([[float(value)]]), None, mean, (0.0, math.inf))

    return read


def read_probe(label: str | None, column: str) -> Callable[[Run], Read]:
    """Return the reader of a probe's change; of the probe that a run's forgetting is of where `label` is None.

    Of all its series together or of one of them: Σ loss / Σ tokens, or the mean score, whichever changed by what
    the record says; of several that did, as where nothing changed, the one at the recorded levels. The reader raises
    :class:`AnalysisError` where none did.
    """

    def read(run: Run) -> Read:
        name = label or str(run["forgetting_name"]).partition(" ")[0]
        found = items(run["folder"])
        found = found[found["split"].str.startswith(f"forgetting/{name}/")].sort_values(["split", "item"])
        series = (found, *(rows for _, rows in found.groupby("split")))
        fitting = [one for some in series for one in _changes(some) if _near(_change(one), run[column])]
        where = column.removesuffix(".delta") if label else f"probe.{str(run['forgetting_name']).replace(' ', '.', 1)}"
        if fitting:
            return max(fitting, key=lambda one: _at_recorded_levels(one, run, where))
        said = run["forgetting_name"] if label is None else column
        raise AnalysisError(f"{run['folder']}: no items give {said} {run[column]:+.6g}, as the record says")

    return read


def _near(value: float, recorded: Any) -> bool:
    return bool(np.isclose(value, recorded, rtol=TOLERANCE, atol=TOLERANCE))


def _at_recorded_levels(one: Read, run: Run, where: str) -> int:
    """Return how many of the probe's two levels, before and after, are those of the record."""
    recorded = (run.get(f"{where}.base"), run.get(f"{where}.after"))
    return sum(said is not None and _near(level, said) for level, said in zip(_levels(one), recorded, strict=True))


def _changes(found: pd.DataFrame) -> Iterator[Read]:
    """Yield the statistics that a probe's items allow."""
    before, after = (found[found["phase"] == phase].reset_index(drop=True) for phase in ("before", "after"))
    if len(after) and before[PROBED].equals(after[PROBED]):
        for columns, statistic in ((["loss", "tokens"], ratio), (["score"], mean)):
            first, second = (one[columns].to_numpy(dtype=float) for one in (before, after))
            yield Read(after[PROBED], second, first, statistic, _bounds(np.stack([first, second]), statistic))


def _change(one: Read) -> float:
    before, after = _levels(one)
    return after - before


def _levels(one: Read) -> tuple[float, float]:
    """Return the statistic before and after training, of an outcome that is a change."""
    assert one.before is not None
    before, after = (float(one.statistic(rows, np.ones((1, len(rows))))[0]) for rows in (one.before, one.after))
    return before, after


def _bounds(rows: Array, statistic: Statistic) -> tuple[float, float]:
    if statistic is ratio:
        return 0.0, math.inf
    return (0.0, 1.0) if rows.min() >= 0 and rows.max() <= 1 else (-math.inf, math.inf)


LEARNING = Outcome("score", "score", read_metric, "metric", "higher_is_better", ("metric",))
FORGETTING = Outcome(
    *("forgetting", "forgetting", read_probe(None, "forgetting"), "forgetting_name", "forgetting_higher_is_better"),
    same=("forgetting_name", "forgetting_version"),
    stream=1,
    verb="forgets less",
)
GAIN = Outcome("gain", "score", read_gain, direction="higher_is_better", same=("metric",), ends=("", ""))
COSTS = {
    name: Outcome(name, column, read_number(column), direction=False, relative=True, verb="takes less")
    for name, column in {"parameters": "trainable", "seconds": "train_seconds", "memory": "train_peak_bytes"}.items()
}


def probe(label: str, metric: str) -> Outcome:
    """Return the outcome of any probe's metric, as the tidy table has its change."""
    where = f"probe.{label}.{metric}"
    return Outcome(
        *(f"{label} {metric}", f"{where}.delta", read_probe(label, f"{where}.delta")),
        direction=f"{where}.higher_is_better",
        same=(f"probe.{label}.version",),
        ends=(f"{where}.low", f"{where}.high"),
        stream=1,
        verb="forgets less",
    )


@dataclass(frozen=True)
class Price:
    """What training gained for what it cost, an outcome like any other: the gain divided by the mean cost."""

    key: str
    per: Outcome
    unit: float
    """How much of the cost is one, such as a million parameters."""


PRICES = {
    "gain_per_million_parameters": Price("gain_per_million_parameters", COSTS["parameters"], 1e6),
    "gain_per_minute": Price("gain_per_minute", COSTS["seconds"], 60.0),
    "gain_per_gib": Price("gain_per_gib", COSTS["memory"], 2.0**30),
}


def outcome_of(name: str) -> Outcome | Price:
    """Return the outcome that a command line names, a probe's as ``lm_loss:loss``; raise :class:`ConfigError`."""
    every: list[Outcome | Price] = [LEARNING, FORGETTING, GAIN, *COSTS.values(), *PRICES.values()]
    known = {one.key: one for one in every}
    if name in known:
        return known[name]
    label, colon, metric = name.partition(":")
    if not colon:
        raise ConfigError("outcomes", name, f"no such outcome; {nearest(name, list(known))}")
    return probe(label, metric)
