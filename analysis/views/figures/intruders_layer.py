"""Intruder dimensions by layer, beside the null controls (arXiv 2410.21228, section 4)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.counts import EPS, MAY_BE_MORE, counts, largest_k, mean_counts, over
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.page import Page
from analysis.views.drawing.style import Look


@FIGURES.register("intruders_layer")
class IntrudersLayer(Figure):
    """Where in the model intruder dimensions are."""

    title = "Intruder dimensions by layer and rank"
    needs = "intruder tables: python -m analysis.intruders <runs>"
    intervals = MAY_BE_MORE

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting, control and layer."""
        rows = counts(page, lambda rows: rows["step"].isna() & ~rows["clustered"] & (rows["eps"] == EPS), "layer")
        rows = rows.assign(layer=pd.to_numeric(rows["part"], errors="coerce")) if len(rows) else rows
        return mean_counts(largest_k(rows[rows["layer"].notna()] if len(rows) else rows), ["control", "k", "layer"])

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel a method."""
        return over(data, look, "layer", f"layer (k = {int(data['k'].iloc[0])}, ε = {EPS})")
