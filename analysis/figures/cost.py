"""Memory and time by method."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.drawing.figure import FIGURES, PAGE, Figure
from analysis.drawing.marks import frame, plain_axis, reach
from analysis.drawing.page import Page
from analysis.drawing.series import SETTING, named, numbers, over_seeds
from analysis.drawing.style import Look, Mark, shorten

GIB = 2**30
MEASURES = {
    "train_seconds": "training, seconds",
    "tokens_per_second": "tokens a second",
    "train_peak": "peak memory of training, GiB",
    "saved_mb": "saved state, MB",
}


@FIGURES.register("cost")
class Cost(Figure):
    """What a method costs: seconds, speed, peak memory, and what must be stored for each task."""

    title = "Time and memory by method and rank"
    needs = "a run that ended well: python -m harness.run"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting and measure, at the rate that validation chose."""
        table = page.chosen
        scaled = {
            "train_peak": numbers(table, "train_peak_bytes") / GIB,
            "saved_mb": numbers(table, "saved_bytes") / 1e6,
        }
        table = table.assign(**scaled)
        parts = [over_seeds(table, SETTING, measure).assign(measure=measure) for measure in MEASURES]
        found = pd.concat([part for part in parts if len(part)], ignore_index=True)
        return found.assign(name=named(found))

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a panel a measure, the settings below each other; every axis begins at 0."""
        names = list(dict.fromkeys(data["name"]))
        shown = [measure for measure in MEASURES if measure in set(data["measure"])]
        grid = canvas.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, measure in zip(grid, shown, strict=True):
            rows = data[data["measure"] == measure].assign(place=lambda some: some["name"].map(names.index))
            for method, own in rows.groupby("method", sort=False):
                _dots(axes, own, look.method(method))
            frame(axes, rows, 0, axis="x")
            axes.set_xlim(left=0)
            axes.set_xlabel(MEASURES[measure].replace(", ", ",\n").replace(" of ", "\nof "))
            plain_axis(axes.xaxis)
        grid[0].set_yticks(range(len(names)), [shorten(name, 24) for name in names])
        grid[0].set_ylim(len(names) - 0.5, -0.5)

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for a line a setting."""
        return PAGE, 1.4 + 0.17 * max(4, data["name"].nunique())


def _dots(axes: Axes, rows: pd.DataFrame, mark: Mark) -> None:
    axes.errorbar(rows["value"], rows["place"], xerr=reach(rows), fmt="none", ecolor=mark.colour, elinewidth=0.8)
    style = {"color": mark.colour, "markersize": 4, "clip_on": False, "zorder": 3}  # a marker at 0 is not cut in half
    axes.plot(rows["value"], rows["place"], mark.marker, **style)
