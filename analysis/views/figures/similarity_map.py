"""|cos| between base and tuned singular vectors (arXiv 2410.21228, figures 1 and 3)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.heat import Heat
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import named
from analysis.views.drawing.sources import TOP, clearest, similarities
from analysis.views.drawing.style import Look

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
        rows = similarities(page)
        if rows.empty:
            return rows
        rows = rows[rows["matrix"] == clearest(rows)["matrix"]]
        least = rows[rows["tuned_index"] < TOP].groupby(["method", "id", "tuned_index"], sort=False)["cos"].max()
        least = least.groupby(["method", "id"], sort=False).min().reset_index()
        runs = least.loc[least.groupby("method", sort=False)["cos"].idxmin(), "id"]
        rows = rows[rows["id"].isin(runs)]
        return rows.assign(name=named(rows, rate=True), value=rows["cos"], ids=rows["id"]).drop(columns=["cos", "id"])

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel a method."""
        rows = data.sort_values(["base_index", "tuned_index"], kind="stable")
        titles = ("base vector", "tuned vector")
        heat = Heat("base_index", "tuned_index", titles, "|cos|", (0.0, 1.0), height=120)
        return heat.chart(rows, look)
