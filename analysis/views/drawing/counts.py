"""Intruder counts over grids of k and ε, as several figures show them: left vectors, against the untouched weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import altair as alt
import numpy as np
import pandas as pd

from analysis.views.drawing.by_rank import CONTROLS
from analysis.views.drawing.curves import panel_a_method
from analysis.views.drawing.marks import DASHED, measured, spread, whole
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING, over_seeds
from analysis.views.drawing.sources import tables
from analysis.views.drawing.style import DASHES, Look

ROOM = (0, 1)
"""Counts that an axis always has room for: where all are 0 it shall not end at 0.06."""
EPS = 0.5
"""The paper's ε, in every grid."""
MAY_BE_MORE = "of random changes, 5 % to 95 % of the draws"


def counts(page: Page, keep: Callable[[pd.DataFrame], pd.Series[bool]], by: str = "all") -> pd.DataFrame:
    """Return the counts of each run, left vectors against W0, of the rows to keep: over all matrices, or by a ``part``.

    Columns besides a run's setting: step, control, clustered, k, eps, intruders (of random changes the median of their
    draws), low, most (their 5 % and 95 % quantiles), vectors. Each method and rank at the rate that its validation
    score chose.
    """
    found = _read(page)
    if found.empty:
        return found
    found = found[found["by"] == by]
    return found[keep(found)].reset_index(drop=True)


@lru_cache(maxsize=1)
def _read(page: Page) -> pd.DataFrame:
    """Return what six figures read of a page: 100 runs' tables have 3 million rows, of which these are a tenth."""
    found = tables(page.chosen, "counts", _wanted)
    if found.empty:
        return found
    if "high" not in found:  # tables from before random changes were drawn more than once
        found = found.assign(low=found["intruders"], high=found["intruders"])
    return found.rename(columns={"value": "part"}).assign(most=found["high"])


def _wanted(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return the rows that figures show: of parts of a model those at the paper's ε alone."""
    whole = (rows["by"] == "all") | ((rows["eps"] == EPS) & ~rows["clustered"] & rows["step"].isna())
    return whole & (rows["side"] == "u") & (rows["reference"] == "w0")


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


def over(data: pd.DataFrame, look: Look, x: str, title: str) -> alt.FacetChart:
    """Return a panel a method: a line a rank, and in grey the mean of the null controls over its runs."""
    across = alt.X(field=x, type="quantitative", title=title, scale=spread(data[x]))
    up = measured(data, "intruder dimensions", *ROOM)
    up["axis"] = whole()
    own, null = data[data["control"] == "none"], data[data["control"] != "none"]
    means = null.groupby(["method", "control", x], sort=False)["value"].mean().reset_index()
    means = means.assign(null=means["control"].map(CONTROLS))
    rows = pd.concat([own, means], ignore_index=True) if len(means) else own
    return panel_a_method(rows, look, across, up, _controls(means, across, up) if len(means) else [])


def _controls(means: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Return the null controls as grey lines, told apart by their dashes."""
    present = [said for said in CONTROLS.values() if said in set(means["null"])]
    scale = alt.Scale(domain=present, range=list(DASHES[2 : 2 + len(present)]))
    dash = alt.StrokeDash("null:N", scale=scale, legend=alt.Legend(title=None, **DASHED))
    line = alt.Chart().transform_filter("isValid(datum.null)").mark_line(style="control", clip=True, aria=False)
    return [line.encode(x=x, y=y, strokeDash=dash)]
