"""Heat maps: one panel a name, one colour scale for all, numbers in the cells where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.drawing.style import shorten

MAP = "cividis"
"""Made for colour-blind readers, and its lightness rises all the way, so it survives a grey printer."""


def grid(data: pd.DataFrame, row: str, column: str, value: str = "value") -> pd.DataFrame:
    """Return a frame of rows × columns, both in the order in which they first appear."""
    rows, columns = list(dict.fromkeys(data[row])), list(dict.fromkeys(data[column]))
    return data.pivot_table(index=row, columns=column, values=value, sort=False).reindex(index=rows, columns=columns)


def heat(axes: Axes, cells: pd.DataFrame, low: float, high: float, form: str | None = None) -> Any:
    """Draw cells, missing ones white; with `form` the numbers too."""
    image = axes.imshow(cells.to_numpy(dtype=float), cmap=MAP, vmin=low, vmax=high, aspect="auto", interpolation="none")
    axes.grid(False)
    if form is not None:
        for (i, j), number in np.ndenumerate(cells.to_numpy(dtype=float)):
            dark = high > low and (number - low) / (high - low) < 0.55
            text = "" if np.isnan(number) else form.format(number).replace("0.", ".", 1)
            axes.text(j, i, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")
    return image


def ticks(axes: Axes, rows: Sequence[object], columns: Sequence[object], slant: bool = True) -> None:
    """Name the rows and columns."""
    axes.set_yticks(range(len(rows)), [shorten(str(row), 24) for row in rows])
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slant else {}
    axes.set_xticks(range(len(columns)), [shorten(str(column), 24) for column in columns], **turned)


def bar(canvas: Canvas, image: Any, axes: Sequence[Axes], label: str) -> None:
    """Draw the colour scale beside all panels."""
    shown = canvas.colorbar(image, ax=list(axes), shrink=0.8, pad=0.02, aspect=30)
    shown.outline.set_visible(False)
    shown.set_label(label)
