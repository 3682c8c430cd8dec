"""Something against rank: a line a method, and one across for a method without ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.marks import Handle, bars, handle, log_axis
from analysis.drawing.style import GREY, Look, Mark

CONTROLS = {
    "dense": "random, equal norm",
    "low_rank": "random, equal norm and rank",
    "quantisation": "quantising the base alone",
}
"""Null controls by their name in the tables: what counts come of a change that learned nothing."""
CONTROL_MARKS = {
    "dense": Mark(GREY, "none", (0, (1, 1))),
    "low_rank": Mark(GREY, "none", (0, (4, 2))),
    "quantisation": Mark(GREY, "none", (0, (6, 1, 1, 1))),
}


def against_rank(axes: Axes, data: pd.DataFrame, look: Look) -> list[Handle]:
    """Draw a method's values over its ranks with their intervals; return the legend's entries.

    Points of one rank stand a little apart, so that intervals of several methods can be told from each other.
    """
    ranks = sorted({float(rank) for rank in data["rank"].dropna()})
    methods = list(dict.fromkeys(data["method"]))
    handles = []
    for place, method in enumerate(methods):
        rows, mark = data[data["method"] == method], look.method(method)
        shift = 1.05 ** (place - (len(methods) - 1) / 2)
        if rows["rank"].isna().all():
            _across(axes, rows, mark, ranks, place, len(methods))
        else:
            shown = rows.dropna(subset="rank")
            shown = shown.assign(rank=shown["rank"].astype("float64") * shift).sort_values("rank")
            bars(axes, shown, "rank", mark, linestyle=mark.line, linewidth=1)
        handles.append(handle(method, mark))
    if ranks:
        log_axis(axes.xaxis, ranks, every=True)
        axes.set_xlabel("rank")
    else:
        axes.set_xticks([])
        axes.set_xlabel("methods without a rank")
    return handles


def _across(axes: Axes, rows: pd.DataFrame, mark: Mark, ranks: list[float], place: int, among: int) -> None:
    """Draw a line over all ranks, and its point and interval at a place of its own, left of the first rank."""
    first, last = (ranks[0], ranks[-1]) if ranks else (1.0, 2.0)
    at = first / 1.5 / 1.12 ** (among - place)
    for _, row in rows.iterrows():
        axes.plot(
            [at, last * 1.2], [row["value"]] * 2, color=mark.colour, linestyle=mark.line, linewidth=0.8, alpha=0.7
        )
    bars(axes, rows.assign(at=np.full(len(rows), at)), "at", mark)
