"""Learning against tokens (arXiv 2405.09673, figure 2)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.curves import along, others, panel_a_method, tokens_axis
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import measured
from analysis.views.drawing.page import Page
from analysis.views.drawing.sources import histories
from analysis.views.drawing.style import Look


@FIGURES.register("learning_tokens")
class LearningTokens(Figure):
    """The validation score along the way; each method and rank at the rate that its validation score chose."""

    title = "Learning: validation score against tokens trained on"
    needs = "scores along the way: python -m harness.run train.eval_steps=<every so many steps>"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting and step."""
        table = page.chosen
        found = along(histories(table, lambda run: f"validation/{run['metric']}"))
        return found.assign(metric=table["metric"].iloc[0])

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel a method."""
        x = tokens_axis(data)
        y = measured(data, f"validation {data['metric'].iloc[0]}", share=True)
        return panel_a_method(data, look, x, y, others(data, x, y))
