"""Effective rank of the weight change by method (arXiv 2410.21228, figure 14)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.by_rank import against_rank
from analysis.drawing.figure import FIGURES, Figure
from analysis.drawing.marks import legend, log_axis
from analysis.drawing.page import Page
from analysis.drawing.series import SETTING, over_seeds
from analysis.drawing.sources import CARRIED, learned, tables
from analysis.drawing.style import GREY, Look


@FIGURES.register("effective_rank")
class EffectiveRank(Figure):
    """exp(-Σ p ln p), p = σ/Σσ, of ΔW (Roy and Vetterli 2007), mean over the matrices; no more than the rank."""

    title = "Effective rank of the weight change, mean over matrices"
    needs = "intruder tables, with spectra for dense changes: python -m analysis.intruders <runs> spectra=true"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank and further setting, at the rate that its validation score chose."""
        rows = tables(page.chosen, "matrices", learned)
        if rows.empty:
            return rows
        means = rows.groupby(CARRIED, dropna=False, sort=False)["change_effective_rank"].mean().reset_index()
        return over_seeds(means, SETTING, "change_effective_rank")

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a line a method, and the most that a rank allows."""
        axes = canvas.subplots()
        handles = against_rank(axes, data, look)
        ranks = sorted({float(rank) for rank in data["rank"].dropna()})
        axes.plot(ranks, ranks, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        if ranks:
            axes.annotate("the rank", (ranks[-1], ranks[-1]), fontsize=6, color=GREY, ha="right", va="bottom")
        log_axis(axes.yaxis, data["value"])
        axes.set_ylabel("effective rank of ΔW")
        legend(canvas, handles)
