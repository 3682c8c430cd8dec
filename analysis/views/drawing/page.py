"""The runs that a figure may show together: of one model, one task, one metric and one version of the data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from analysis.effects.blocks import Effects, Known, effects_of
from analysis.records.configurations import BLOCK, UNIT, configured, narrow, newest


@dataclass(frozen=True, eq=False)
class Page:
    """Finished runs that may be compared."""

    model: str
    task: str
    table: pd.DataFrame
    diverged: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Runs of the same model and task that diverged: at their rates no other is chosen."""
    several: bool = False
    """Whether these are the runs of several models and tasks, of which a few figures speak together."""
    known: Known = field(default_factory=dict)
    """What was read of runs before, and is now."""

    @property
    def name(self) -> str:
        """Return model and task as a part of a file's name."""
        return f"{slug(self.model)}-{slug(self.task)}"

    @property
    def place(self) -> tuple[str, ...]:
        """Return the model, task, metric and data that all runs share; of runs of several models and tasks nothing."""
        return () if self.several else tuple(str(value) for value in self.table.iloc[0][list(BLOCK)])

    @cached_property
    def effects(self) -> Effects:
        """Return what configurations learned and forgot, at the rates that validation chose, as tables have it."""
        with_diverged = [self.table, *([self.diverged] if len(self.diverged) else [])]
        return effects_of(pd.concat(with_diverged, ignore_index=True), self.known)

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """Return the runs, one a seed, at the rate that each configuration's validation score chose, as tables do.

        ``setting`` is what else of the configuration tells runs of one method and rank apart, mostly nothing; where it
        is not empty, two lengths of training, say, are two series and never one mean.
        """
        return _narrow(self.effects.chosen)

    @cached_property
    def every_rate(self) -> pd.DataFrame:
        """Return the runs, one a seed, at every rate."""
        runs = configured(self.table)
        groups = runs.groupby([UNIT, "learning_rate"], dropna=False, sort=False)
        kept = {index for _, some in groups for index in newest(some).index}
        return _narrow(runs.loc[[index for index in runs.index if index in kept]])

    def chose(self, ids: set[str]) -> bool:
        """Return whether some of these runs have a rate that was chosen among several."""
        tried = self.effects.chosen.loc[self.effects.chosen["id"].isin(ids), "rates_tried"]
        return bool((tried.fillna(1) > 1).any())


def _narrow(runs: pd.DataFrame) -> pd.DataFrame:
    pairs = zip(runs[UNIT].astype(str), runs["label"].astype(str), strict=True)
    setting = [name.removeprefix(label).strip() for name, label in pairs]
    return narrow(runs).assign(setting=pd.Series(setting, index=runs.index, dtype="str")).reset_index(drop=True)


def pages(table: pd.DataFrame, known: Known | None = None) -> Iterator[Page]:
    """Yield the finished runs that may be compared, in the order of the records; a copied run once.

    Each model, task, metric and version of the data is a page of its own: figures never mix them. Rows from elsewhere
    have no items, history or tables to draw and stay in the table.
    """
    done = table[(table["status"] == "done") & ~table["foreign"]].drop_duplicates("id")
    done = done.assign(model=done["model"].fillna("unnamed model"), task=done["task"].fillna("unnamed task"))
    several = done.groupby(["model", "task"])[["metric", "data_hash"]].nunique(dropna=False) > 1
    for key, rows in done.groupby(list(BLOCK), dropna=False, sort=False):
        model, task, metric, data = map(str, key)
        metrics, versions = several.loc[(model, task)]
        more = f" {metric}" * bool(metrics) + f" data {data[:8]}" * bool(versions)
        diverged = table[table["diverged"].fillna(False) & (table["model"] == model) & (table["task"] == task)]
        yield Page(model, task + more, rows.reset_index(drop=True), diverged, known={} if known is None else known)


def every_page(table: pd.DataFrame, known: Known | None = None) -> Iterator[Page]:
    """Yield the pages, and where there are several one of all their runs."""
    found = list(pages(table, known))
    yield from found
    if len(found) > 1:
        whole = pd.concat([page.table for page in found], ignore_index=True)
        diverged = pd.concat([page.diverged for page in found], ignore_index=True).drop_duplicates("id")
        names = (counted(len({page.model for page in found}), "model"), counted(len(found), "task"))
        yield Page(*names, whole, diverged, several=True, known={} if known is None else known)


def counted(number: int, what: str) -> str:
    """Return ``1 seed``, ``2 seeds``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def slug(name: str) -> str:
    """Return a name as a part of a file's name: letters of any script, digits, dots and underscores stay."""
    return re.sub(r"[^\w.]+", "_", name).strip("._")[:60] or "unnamed"
