"""Intruder dimensions against ε by rank (arXiv 2410.21228, figure 4)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.counts import MAY_BE_MORE, by_method, count_size, counts, largest_k, mean_counts
from analysis.drawing.figure import FIGURES, Figure
from analysis.drawing.page import Page
from analysis.drawing.style import Look


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

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a panel a method."""
        by_method(data, canvas, look, "eps", f"ε, k = {int(data['k'].iloc[0])}")

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for a panel a method."""
        return count_size(data)
