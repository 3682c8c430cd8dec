"""Intruder dimensions against k by rank (arXiv 2410.21228, figure 15)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.counts import EPS, MAY_BE_MORE, counts, mean_counts, over
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.page import Page
from analysis.views.drawing.style import Look


@FIGURES.register("intruders_k")
class IntrudersK(Figure):
    """How the count grows with the number of tuned vectors that are looked at."""

    title = "Intruder dimensions against the number k of top vectors a matrix, by rank"
    needs = "intruder tables: python -m analysis.intruders <runs>"
    intervals = MAY_BE_MORE

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting, control and k."""
        rows = counts(page, lambda rows: rows["step"].isna() & ~rows["clustered"] & (rows["eps"] == EPS))
        return mean_counts(rows, ["control", "eps", "k"])

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel a method."""
        return over(data, look, "k", f"k, ε = {EPS}")
