"""|cos| between base and tuned singular vectors (arXiv 2410.21228, figures 1 and 3)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.figure import FIGURES, PAGE, Figure
from analysis.drawing.heat import bar, grid, heat
from analysis.drawing.marks import height, labels, panels
from analysis.drawing.page import Page
from analysis.drawing.series import named
from analysis.drawing.similarity import TOP, clearest, similarities
from analysis.drawing.style import Look

COLUMNS = 3


@FIGURES.register("similarity_map")
class SimilarityMap(Figure):
    """A tuned column without a bright cell is an intruder dimension, as far as these base vectors go.

    The matrix is the one with the least similar tuned vector of all runs; of each method the run that has it least.
    """

    title = "|cos| between base and tuned left singular vectors"
    chosen = False
    needs = "similarities: python -m analysis.intruders <runs> similarity=64"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method (one run of it), base vector and tuned vector of one matrix."""
        rows = similarities(page.every_rate)
        if rows.empty:
            return rows
        rows = rows[rows["matrix"] == clearest(rows)["matrix"]]
        least = rows[rows["tuned_index"] < TOP].groupby(["method", "id", "tuned_index"], sort=False)["cos"].max()
        least = least.groupby(["method", "id"], sort=False).min().reset_index()
        runs = least.loc[least.groupby("method", sort=False)["cos"].idxmin(), "id"]
        rows = rows[rows["id"].isin(runs)]
        return rows.assign(name=named(rows, rate=True), value=rows["cos"], ids=rows["id"]).drop(columns=["cos", "id"])

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a panel a method."""
        places = panels(canvas, list(dict.fromkeys(data["name"])), COLUMNS)
        for name, axes in places.items():
            cells = grid(data[data["name"] == name], "base_index", "tuned_index")
            image = heat(axes, cells.sort_index().sort_index(axis=1), 0, 1)
            axes.set_aspect("equal")
        labels(places, COLUMNS, "tuned vector", "base vector")
        bar(canvas, image, list(places.values()), "|cos|")
        canvas.supxlabel(data["matrix"].iloc[0], fontsize=7, x=0.01, ha="left")

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for a panel a method."""
        return PAGE, height(data["name"].nunique(), COLUMNS, 2.1, 0.8)
