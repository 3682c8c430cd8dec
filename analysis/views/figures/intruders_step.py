"""Intruder dimensions against training steps by rank (arXiv 2410.21228, figures 5 and 7)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.counts import EPS, MAY_BE_MORE, counts, largest_k, mean_counts, over
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.page import Page
from analysis.views.drawing.style import Look


@FIGURES.register("intruders_step")
class IntrudersStep(Figure):
    """When intruder dimensions appear."""

    title = "Intruder dimensions against training steps, by rank"
    needs = (
        "kept checkpoints: python -m harness.run train.keep_checkpoints=true train.save_steps=<every so many steps>, "
        "then python -m analysis.intruders <runs> checkpoints=true"
    )
    intervals = MAY_BE_MORE

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting, control and step, the end of training included."""
        rows = counts(page, lambda rows: (rows["eps"] == EPS) & ~rows["clustered"])
        if rows.empty or rows["step"].isna().all():
            return mean_counts(rows.iloc[:0], ["control", "k", "step"])
        last = rows["id"].map(page.chosen.set_index("id")["steps"].astype("float64"))
        along = rows[rows["id"].isin(rows.loc[rows["step"].notna(), "id"])]
        along = along.assign(step=along["step"].fillna(last.loc[along.index]))
        return mean_counts(largest_k(along.drop_duplicates(["id", "control", "k", "step"])), ["control", "k", "step"])

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel a method."""
        return over(data, look, "step", f"step (k = {int(data['k'].iloc[0])}, ε = {EPS})")
