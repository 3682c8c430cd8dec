"""Intruder dimensions against ε by rank (arXiv 2410.21228, figure 4)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.counts import MAY_BE_MORE, counts, largest_k, mean_counts, over
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.page import Page
from analysis.views.drawing.style import Look


@FIGURES.register("intruders_eps")
class IntrudersEps(Figure):
    """How the count depends on where the line is drawn, beside changes that learned nothing."""

    title = "Intruder dimensions against ε, by rank"
    needs = "intruder tables: python -m analysis.intruders <runs>"
    intervals = MAY_BE_MORE

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting, control and ε, at the largest k that all runs have."""
        rows = counts(page, lambda rows: rows["step"].isna() & ~rows["clustered"])
        return mean_counts(largest_k(rows), ["control", "k", "eps"])

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel a method."""
        return over(data, look, "eps", f"ε, k = {int(data['k'].iloc[0])}")
