"""Something against rank: a line a method, and one across for a method without ranks."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.views.drawing.marks import by_method, points
from analysis.views.drawing.series import numbers
from analysis.views.drawing.style import COMPACT, Look

CONTROLS = {
    "spectrum": "random, same spectrum",
    "dense": "random, equal norm",
    "low_rank": "random, equal norm and rank",
    "quantisation": "quantising the base alone",
}
"""Null controls by their name in the tables: what counts come of a change that learned nothing."""
FIELDS = ("at", "value", "low", "high", "method", "rank", "setting")


def positions(data: pd.DataFrame, among: pd.DataFrame) -> pd.Series[float]:
    """Return where rows stand on an axis of ranks, given all rows that stand on it.

    Methods stand a little apart at each rank, so that their intervals can be told from each other, and those
    without ranks left of the first rank.
    """
    methods = {method: place for place, method in enumerate(dict.fromkeys(among["method"]))}
    place = data["method"].map(methods)
    first = numbers(among, "rank").min()
    left = (1.0 if np.isnan(first) else first) / 1.6 / 1.08 ** (len(methods) - place)
    apart = 1.05 ** (place - (len(methods) - 1) / 2)
    found: pd.Series[float] = (numbers(data, "rank") * apart).fillna(left)
    return found


def rank_axis(at: pd.Series[float], ranks: pd.Series[Any]) -> alt.X:
    """Return a logarithmic axis with a tick at each rank, and one where methods without ranks stand."""
    known = sorted({float(rank) for rank in ranks.dropna()})
    left = at[ranks.isna()]
    names = [float(np.exp(np.log(left).mean()))] * bool(len(left)) + known
    label = f"datum.value < {known[0] * 0.9 if known else 1e9} ? 'none' : {COMPACT}"
    axis = alt.Axis(values=names, labelExpr=label, labelOverlap=False)
    scale = alt.Scale(type="log", domain=[float(at.min()) / 1.2, float(at.max()) * 1.2], nice=False)
    return alt.X("at:Q", title="rank", scale=scale, axis=axis)


def against_rank(data: pd.DataFrame, look: Look, y: alt.Y) -> list[alt.Chart]:
    """Return the marks of rows with their place ``at``: points, intervals, a line a method."""
    x, apart = rank_axis(data["at"], data["rank"]), by_method(data, look, line=True)
    shown = {key: apart[key] for key in ("color", "strokeDash")}
    line = alt.Chart().transform_filter("isValid(datum.rank)").mark_line(clip=True, aria=False)
    across = alt.Chart().transform_filter("!isValid(datum.rank)").mark_rule(style="across", clip=True, aria=False)
    lines = [
        across.encode(x=x, x2=alt.X2Datum(float(data["at"].max())), y=y, **shown),
        line.encode(x=x, y=y, detail="setting:N", **shown),
    ]
    return [*(lines if data["rank"].notna().any() else []), *points(x, y, apart)]
