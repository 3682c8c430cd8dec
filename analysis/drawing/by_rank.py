"""Something against rank: a line a method, and one across for a method without ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.marks import Handle, bars, handle, log_axis
from analysis.drawing.series import numbers
from analysis.drawing.style import GREY, Look, Mark

CONTROLS = {
    "spectrum": "random, same spectrum",
    "dense": "random, equal norm",
    "low_rank": "random, equal norm and rank",
    "quantisation": "quantising the base alone",
}
"""Null controls by their name in the tables: what counts come of a change that learned nothing."""
CONTROL_MARKS = {
    "spectrum": Mark(GREY, "s", "-"),
    "dense": Mark(GREY, "_", (0, (1, 1))),
    "low_rank": Mark(GREY, "x", (0, (4, 2))),
    "quantisation": Mark(GREY, "+", (0, (6, 1, 1, 1))),
}


def positions(data: pd.DataFrame, among: pd.DataFrame) -> pd.Series[float]:
    """Return where rows stand on an axis of ranks, given all rows that stand on it.

    Methods stand a little apart at each rank, so that their intervals can be told from each other, and those
    without ranks left of the first rank.
    """
    methods = {method: place for place, method in enumerate(dict.fromkeys(among["method"]))}
    place = data["method"].map(methods)
    first = numbers(among, "rank").min()
    left = (1.0 if np.isnan(first) else first) / 1.5 / 1.12 ** (len(methods) - place)
    apart = 1.05 ** (place - (len(methods) - 1) / 2)
    found: pd.Series[float] = (numbers(data, "rank") * apart).fillna(left)
    return found


def against_rank(axes: Axes, data: pd.DataFrame, look: Look) -> list[Handle]:
    """Draw a method's values over its ranks with their intervals; return the legend's entries."""
    data = data.assign(at=positions(data, data))
    ranks = sorted({float(rank) for rank in data["rank"].dropna()})
    handles = []
    for method, rows in data.groupby("method", sort=False):
        mark = look.method(method)
        if rows["rank"].isna().all():
            bars(axes, rows, "at", mark)
            axes.hlines(rows["value"], rows["at"], data["at"].max(), mark.colour, mark.line, linewidth=0.8, alpha=0.7)
        else:
            bars(axes, rows.sort_values("at"), "at", mark, linestyle=mark.line, linewidth=1)
        handles.append(handle(method, mark))
    _rank_axis(axes, ranks)
    return handles


def _rank_axis(axes: Axes, ranks: list[float]) -> None:
    if ranks:
        log_axis(axes.xaxis, ranks, every=True)
        axes.set_xlabel("rank")
    else:
        axes.set_xticks([])
        axes.set_xlabel("methods without a rank")
