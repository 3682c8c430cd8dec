"""Effective rank of the weight change by method (arXiv 2410.21228, figure 14)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.by_rank import FIELDS, against_rank, positions, rank_axis
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import log, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING, over_seeds
from analysis.views.drawing.sources import CARRIED, learned, tables
from analysis.views.drawing.style import COLUMN, Look


@FIGURES.register("effective_rank")
class EffectiveRank(Figure):
    """exp(-Σ p ln p), p = σ/Σσ, of ΔW (Roy and Vetterli 2007), mean over the matrices; no more than the rank."""

    title = "Effective rank of the weight change, mean over matrices"
    needs = "intruder tables, with spectra for dense changes: python -m analysis.intruders <runs> spectra=true"
    width = COLUMN

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank and further setting, at the rate that its validation score chose."""
        rows = tables(page.chosen, "matrices", learned)
        if rows.empty:
            return rows
        means = rows.groupby(CARRIED, dropna=False, sort=False)["change_effective_rank"].mean().reset_index()
        return over_seeds(means, SETTING, "change_effective_rank")

    def chart(self, data: pd.DataFrame, look: Look) -> alt.LayerChart:
        """Return a line a method, and the most that a rank allows."""
        rows = data.assign(at=positions(data, data))
        ranks = [float(rank) for rank in data["rank"].dropna()]
        y = alt.Y(field="value", type="quantitative", title="effective rank of ΔW", **log([*data["value"], *ranks]))
        layers = against_rank(rows, look, y)
        most = alt.Chart(alt.InlineData(values=[{"at": rank, "value": rank} for rank in sorted({*ranks})]))
        limit = most.mark_line(style="reference", aria=False).encode(x=rank_axis(rows["at"], rows["rank"]), y=y)
        return alt.layer(limit, *layers, data=values(rows, *FIELDS)).properties(width=190, height=150)
