"""Intruder dimensions against k by rank (arXiv 2410.21228, figure 15)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.counts import EPS, MAY_BE_MORE, by_method, count_size, counts, mean_counts
from analysis.drawing.figure import FIGURES, Figure
from analysis.drawing.page import Page
from analysis.drawing.style import Look


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

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a panel a method."""
        by_method(data, canvas, look, "k", f"k, ε = {EPS}")

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for a panel a method."""
        return count_size(data)
