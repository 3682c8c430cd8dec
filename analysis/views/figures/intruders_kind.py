"""Intruder dimensions by kind of matrix, beside the null controls (arXiv 2410.21228, section 4)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.by_rank import CONTROLS
from analysis.views.drawing.counts import EPS, counts, largest_k, mean_counts
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.heat import Heat
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import named
from analysis.views.drawing.style import Look


@FIGURES.register("intruders_kind")
class IntrudersKind(Figure):
    """In which matrices intruder dimensions are."""

    title = f"Intruder dimensions by kind of matrix, mean over seeds, ε = {EPS}"
    needs = "intruder tables: python -m analysis.intruders <runs>"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting, control and kind of matrix."""
        rows = counts(page, lambda rows: rows["step"].isna() & ~rows["clustered"] & (rows["eps"] == EPS), "kind")
        found = mean_counts(largest_k(rows), ["control", "k", "part"])
        found = found.rename(columns={"part": "kind"}).assign(interval="")
        return found.assign(configuration=named(found), name=found["control"].map({"none": "fine-tuning"} | CONTROLS))

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel for fine-tuning and for each null control."""
        ends = (0.0, max(1.0, float(data["value"].max())))
        height = max(60, 11 * data["configuration"].nunique())
        return Heat("configuration", "kind", ("", ""), "intruders", ends, ".3~g", height).chart(data, look)
