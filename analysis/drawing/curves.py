"""Values over training: a panel a method, a line a rank, the other methods' lines in grey behind."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.marks import curve, frame, handle, height, labels, legend, panels, plain_axis
from analysis.drawing.series import SETTING, over_seeds
from analysis.drawing.style import Look, missing

COLUMNS = 3


def along(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds at each step; ``tokens`` is the mean number of tokens seen until there."""
    by = [*SETTING, "step"]
    found = over_seeds(rows, by, "value")
    if found.empty:
        return found.assign(tokens=[])
    tokens = rows.groupby(by, dropna=False, sort=False)["tokens"].mean()
    return found.assign(tokens=tokens.to_numpy())


def by_method(data: pd.DataFrame, canvas: Canvas, look: Look, x: str, xlabel: str, ylabel: str) -> None:
    """Draw a panel a method, all on the same axes."""
    methods = list(dict.fromkeys(data["method"]))
    handles = {}
    places = panels(canvas, methods, COLUMNS)
    for method, axes in places.items():
        for _, other in data[data["method"] != method].groupby(SETTING, dropna=False, sort=False):
            axes.plot(other[x].astype(float), other["value"], color="#D9D9D9", linewidth=0.6, zorder=1)
        for (_, rank, _, setting), rows in data[data["method"] == method].groupby(SETTING, dropna=False, sort=False):
            name = " ".join(filter(None, ["no rank" if missing(rank) else f"rank {int(rank)}", setting]))
            curve(axes, rows, x, look.rank(rank), markersize=3)
            handles[name] = look.rank(rank)
        plain_axis(axes.xaxis)
        frame(axes, data)
    labels(places, COLUMNS, xlabel, ylabel)
    others = [("other methods", _grey())] if len(methods) > 1 else []
    legend(canvas, [*(handle(name, mark) for name, mark in sorted(handles.items(), key=_order)), *others])


def _order(entry: tuple[str, object]) -> tuple[int, str]:
    digits = "".join(letter for letter in entry[0].split(" ")[1] if letter.isdigit()) if " " in entry[0] else ""
    return int(digits or 0), entry[0]


def _grey() -> object:
    from matplotlib.lines import Line2D

    return Line2D([], [], color="#D9D9D9", linewidth=0.8)


def curve_size(data: pd.DataFrame) -> tuple[float, float]:
    """Return inches for a panel a method."""
    return 6.9, height(data["method"].nunique(), COLUMNS)
