"""Points with bars, curves with bands, panels, legends: matplotlib calls that several figures make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatter, MaxNLocator, NullLocator

from analysis.drawing.style import GREY, Mark, compact, missing, shorten, width

ENDS = ("value", "low", "high")
Handle = tuple[str, Any]
"""A legend's entry: its text and what is drawn beside it."""


def handle(name: str, mark: Mark, line: bool = True, faint: bool = False) -> Handle:
    """Return a legend's entry for a mark."""
    style = {"linestyle": mark.line if line else "none", "marker": mark.marker, "color": mark.colour}
    return name, Line2D([], [], alpha=0.4 if faint else 1, **style)


def legend(canvas: Canvas, handles: Iterable[Handle], title: str | None = None) -> None:
    """Write the legend below all panels, in as many columns as fit; names are text whatever is in them."""
    entries = dict(handles)
    if not entries:
        return
    names = [shorten(name) for name in entries]
    # At 7 pt an inch holds 17 letters; the mark and the gap beside it take 6.
    columns = max(1, min(len(names), int(canvas.get_figwidth() * 17 / (max(map(width, names)) + 6))))
    shown = canvas.legend(
        list(entries.values()),
        ["x"] * len(names),
        loc="outside lower left",
        ncols=columns,
        title=title,
        alignment="left",
    )
    for text, name in zip(shown.get_texts(), names, strict=True):
        text.set_text(name)  # afterwards, because matplotlib hides a series whose name begins with "_"


def names_beside(axes: Axes, rows: pd.DataFrame, x: str, y: str, mark: Mark) -> None:
    """Write each point's rank beside it, and what else sets it apart from others of its method."""
    apart = rows["setting"].nunique() > 1
    for row in rows.to_dict("records"):
        rank = "" if missing(row["rank"]) else str(int(row["rank"]))
        name = f"{rank} {row['setting'] if apart else ''}".strip()
        place = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 6, "color": mark.colour, "zorder": 4}
        axes.annotate(name, (row[x], row[y]), **place)


def bars(axes: Axes, rows: pd.DataFrame, x: str, mark: Mark, size: float = 4, **style: Any) -> None:
    """Draw a point for each row, with its interval."""
    rows = rows.astype({x: "float64"})
    axes.errorbar(
        rows[x],
        rows["value"],
        yerr=reach(rows),
        fmt=mark.marker,
        color=mark.colour,
        markersize=size,
        elinewidth=0.8,
        **{"linestyle": "none", "zorder": 3} | style,
    )


def curve(axes: Axes, rows: pd.DataFrame, x: str, mark: Mark, marker: bool = True, **style: Any) -> None:
    """Draw a line through the rows in the order of `x`, over a band of their intervals."""
    rows = rows.astype({x: "float64"}).sort_values(x)
    shown = mark.marker if marker else "none"
    axes.plot(rows[x], rows["value"], color=mark.colour, marker=shown, linestyle=mark.line, **style)
    if (rows["high"] > rows["low"]).any():
        axes.fill_between(rows[x], rows["low"], rows["high"], color=mark.colour, alpha=0.15, linewidth=0)


def reach(rows: pd.DataFrame) -> Any:
    """Return how far the intervals reach below and above; nowhere where a resampled one leaves its own value out."""
    below, above = rows["value"] - rows["low"], rows["high"] - rows["value"]
    return np.clip(np.stack([below, above]).astype(float), 0, None)


def panels(canvas: Canvas, names: Sequence[str], columns: int = 3, same_y: bool = True) -> dict[str, Axes]:
    """Return an empty panel for each name, titled with it."""
    across = min(columns, max(1, len(names)))
    down = -(-len(names) // across)
    grid = canvas.subplots(down, across, sharex=True, sharey=same_y, squeeze=False).ravel().tolist()
    for unused in grid[len(names) :]:
        unused.remove()
    for place, (name, axes) in enumerate(zip(names, grid, strict=False)):
        axes.set_title(shorten(name, 84 // across))
        if place + across >= len(names):  # the lowest of its column, also where the last row is not full
            axes.tick_params(labelbottom=True)
    return dict(zip(names, grid, strict=False))


def height(names: int, columns: int = 3, each: float = 1.75, rest: float = 1.0) -> float:
    """Return inches for so many panels."""
    return max(1, -(-names // columns)) * each + rest


def log_axis(axis: Any, values: Iterable[float], every: bool = False) -> None:
    """Make an axis logarithmic with ticks in few characters; with `every` exactly at the values, as for ranks."""
    known = sorted({float(value) for value in values if value > 0})
    if not known:
        return
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    if every:
        axis.set_major_locator(FixedLocator(known))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(compact))
    axis.set_minor_formatter(Sparse(minor_thresholds=(1.2, 0.6)))


class Sparse(LogFormatter):
    """Labels between powers of ten where there are few of those, written in few characters."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return a tick's label, empty where it would crowd the others."""
        return compact(x) if super().__call__(x, pos) else ""


def whole_axis(axis: Any) -> None:
    """Put ticks of an axis of counts at whole numbers."""
    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.set_major_formatter(FuncFormatter(compact))


def plain_axis(axis: Any) -> None:
    """Write large numbers of an axis in few characters."""
    axis.set_major_formatter(FuncFormatter(compact))


def reference(axes: Axes, value: float, name: str = "") -> None:
    """Draw a grey line across with its name on it, such as the untouched model's score."""
    axes.axhline(value, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "bottom", "fontsize": 6, "color": GREY}
    axes.text(0.995, value, name, zorder=1, **place)


def labels(axes: dict[str, Axes], columns: int, xlabel: str, ylabel: str) -> None:
    """Label the lowest panel of each column and the first of each row."""
    panels = list(axes.values())
    across = min(columns, len(panels))
    for place, one in enumerate(panels):
        if place % across == 0:
            one.set_ylabel(ylabel)
        if place + across >= len(panels):
            one.set_xlabel(xlabel)


def frame(
    axes: Axes,
    data: pd.DataFrame,
    *more: float,
    names: tuple[str, str, str] = ENDS,
    axis: str = "y",
    share: bool = False,
) -> None:
    """Show all values, and of their intervals no more than three times the range of the values.

    The t interval of two seeds is 12.7 standard errors to each side: on an axis that held all of it, nothing
    could be told apart. What is longer runs out of the frame. With `share`, values that all lie from 0 to 1, as
    accuracies do, have an axis that ends there, whatever a t interval says.
    """
    value, low, high = (data[name].astype("float64") for name in names)
    least, most = min([value.min(), *more]), max([value.max(), *more])
    room = (most - least) or float((high - low).max()) or abs(most) or 1.0
    room = room if np.isfinite(room) else 1.0
    bottom, top = max(least - room, min(low.min(), least)), min(most + room, max(high.max(), most))
    bottom, top = (least if np.isnan(bottom) else bottom), (most if np.isnan(top) else top)
    if share and least >= 0 and most <= 1:
        bottom, top = max(bottom, 0.0), min(top, 1.0)
    edge = 0.06 * ((top - bottom) or room)
    (axes.set_ylim if axis == "y" else axes.set_xlim)(bottom - edge, top + edge)
