"""Forgetting against rank, beside full fine-tuning (arXiv 2410.21228, figure 6)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.effects.outcomes import FORGETTING
from analysis.views.drawing.by_rank import FIELDS, against_rank, positions
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import measured, reference, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING, effects_over_seeds
from analysis.views.drawing.sources import change_of, forgetting_label, same_probe
from analysis.views.drawing.style import COLUMN, Look


@FIGURES.register("forgetting_rank")
class ForgettingRank(Figure):
    """What each rank forgets, at the rate that its validation score chose."""

    title = "Forgetting by rank"
    needs = "runs with a forgetting probe: python -m harness.run forgetting=default"
    width = COLUMN

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank and further setting."""
        table = same_probe(page.chosen)
        found = effects_over_seeds(page.effects, table, SETTING, FORGETTING)
        return found.assign(probe=forgetting_label(table))

    def chart(self, data: pd.DataFrame, look: Look) -> alt.LayerChart:
        """Return a line a method."""
        rows = data.assign(at=positions(data, data))
        y = measured(rows, change_of(rows["probe"].iloc[0]), 0)
        layers = [*reference(0, "untouched"), *against_rank(rows, look, y)]
        return alt.layer(*layers, data=values(rows, *FIELDS)).properties(width=190, height=150)
