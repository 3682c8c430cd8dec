"""Intruder counts over grids of k and ε, as several figures show them: left vectors, against the untouched weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.by_rank import CONTROL_MARKS, CONTROLS
from analysis.drawing.marks import curve, frame, handle, height, labels, legend, panels, whole_axis
from analysis.drawing.page import Page
from analysis.drawing.series import SETTING, over_seeds
from analysis.drawing.sources import tables
from analysis.drawing.style import Look, missing

COLUMNS = 3
ROOM = (0, 1)
"""Counts that an axis always has room for: where all are 0 it shall not end at 0.06."""
EPS = 0.5
"""The paper's ε, in every grid."""
MAY_BE_MORE = "of random changes, 5 % to 95 % of the draws"


def counts(page: Page, keep: Callable[[pd.DataFrame], pd.Series[bool]]) -> pd.DataFrame:
    """Return the counts over all matrices of each run, left vectors against W0, of the rows to keep.

    Columns besides a run's setting: step, control, clustered, k, eps, intruders (of random changes the median of their
    draws), low, most (their 5 % and 95 % quantiles), vectors. Each method and rank at the rate that its validation
    score chose.
    """
    found = _read(page)
    return found if found.empty else found[keep(found)].reset_index(drop=True)


@lru_cache(maxsize=1)
def _read(page: Page) -> pd.DataFrame:
    """Return what four figures read of a page: 100 runs' tables have 3 million rows, of which these are a fortieth."""
    found = tables(page.chosen, "counts", _wanted)
    if len(found) and "high" not in found:  # tables from before random changes were drawn more than once
        found = found.assign(low=found["intruders"], high=found["intruders"])
    return found if found.empty else found.assign(most=found["high"])


def _wanted(rows: pd.DataFrame) -> pd.Series[bool]:
    return (rows["by"] == "all") & (rows["side"] == "u") & (rows["reference"] == "w0")


def largest_k(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the largest k that every run has."""
    return rows[rows["k"] == rows.groupby("id")["k"].max().min()] if len(rows) else rows


def mean_counts(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the mean count over seeds; of random changes the interval takes in their draws, and is never below 0."""
    keys = [*SETTING, *by]
    if rows.empty:
        return over_seeds(pd.DataFrame(columns=[*keys, "intruders", "id"]), keys, "intruders")
    least = over_seeds(rows, keys, "intruders", "low", "most")
    most = over_seeds(rows, keys, "most", "low", "most")
    # one run's ends are of its draws, and no interval over items
    kinds = least["interval"].replace("items", "")
    return least.assign(
        low=np.clip(least["low"], 0, None), high=np.maximum(least["high"], most["high"]), interval=kinds
    )


def by_method(data: pd.DataFrame, canvas: Canvas, look: Look, x: str, xlabel: str) -> None:
    """Draw a panel a method: a line a rank, and in grey the mean of the null controls over its runs."""
    methods = list(dict.fromkeys(data["method"]))
    handles = {}
    places = panels(canvas, methods, COLUMNS)
    for method, axes in places.items():
        own = data[data["method"] == method]
        for (_, rank, _, setting), rows in own[own["control"] == "none"].groupby(SETTING, dropna=False, sort=False):
            name = " ".join(filter(None, ["no rank" if missing(rank) else f"rank {int(rank)}", setting]))
            curve(axes, rows, x, look.rank(rank), markersize=3)
            handles[name] = look.rank(rank)
        for control, rows in own[own["control"] != "none"].groupby("control", sort=False):
            mean = rows.groupby(x, sort=True)["value"].mean()
            mark = CONTROL_MARKS[control]
            axes.plot(mean.index.astype(float), mean, color=mark.colour, linestyle=mark.line)
        frame(axes, data, *ROOM)
        whole_axis(axes.yaxis)
    labels(places, COLUMNS, xlabel, "intruder dimensions")
    ranked = sorted(handles.items(), key=lambda entry: (len(entry[0]), entry[0]))
    controls = [
        handle(text, replace(CONTROL_MARKS[name], marker="none"))
        for name, text in CONTROLS.items()
        if name in set(data["control"])
    ]
    legend(canvas, [*(handle(name, mark) for name, mark in ranked), *controls])


def count_size(data: pd.DataFrame) -> tuple[float, float]:
    """Return inches for a panel a method."""
    return 6.9, height(data["method"].nunique(), COLUMNS)
