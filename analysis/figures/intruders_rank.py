"""Intruder dimensions against rank, beside full fine-tuning and the null controls (arXiv 2410.21228, section 4)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.drawing.by_rank import CONTROL_MARKS, CONTROLS, against_rank
from analysis.drawing.counts import EPS, MAY_BE_MORE, ROOM, counts, largest_k, mean_counts
from analysis.drawing.figure import FIGURES, PAGE, Figure
from analysis.drawing.marks import Handle, frame, handle, legend, whole_axis
from analysis.drawing.page import Page
from analysis.drawing.style import Look

PANELS = {False: "single vectors (the paper's count)", True: "clusters of near-equal values as one"}


@FIGURES.register("intruders_rank")
class IntrudersRank(Figure):
    """How many intruders each rank has, counted as the paper does and cluster-aware."""

    title = "Intruder dimensions by rank"
    needs = "intruder tables: python -m analysis.intruders <runs>"
    intervals = MAY_BE_MORE

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting, control and way of counting."""
        rows = counts(page, lambda rows: rows["step"].isna() & (rows["eps"] == EPS))
        return mean_counts(largest_k(rows), ["control", "clustered", "k", "vectors"])

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw both ways of counting side by side."""
        both = canvas.subplots(1, 2, sharey=True)
        handles = []
        for axes, (clustered, title) in zip(both, PANELS.items(), strict=True):
            own = data[data["clustered"] == clustered]
            handles = against_rank(axes, own[own["control"] == "none"], look)
            axes.set_title(title)
            frame(axes, data, *ROOM)
            whole_axis(axes.yaxis)
            handles += [_control(axes, own, control) for control in CONTROLS if control in set(own["control"])]
        first = data.iloc[0]
        both[0].set_ylabel(f"intruders of {int(first['vectors'])}\n(k = {int(first['k'])}, ε = {EPS})")
        legend(canvas, handles)

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches of both columns."""
        return PAGE, 3.1


def _control(axes: Axes, data: pd.DataFrame, control: str) -> Handle:
    """Draw the mean of a null control over all runs as a line across."""
    mark = CONTROL_MARKS[control]
    mean = data.loc[data["control"] == control, "value"].mean()
    axes.axhline(mean, color=mark.colour, linestyle=mark.line, linewidth=0.9, zorder=1)
    return handle(CONTROLS[control], mark)
