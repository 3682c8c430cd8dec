"""Learning against tokens (arXiv 2405.09673, figure 2)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.curves import along, by_method, curve_size
from analysis.drawing.figure import FIGURES, Figure
from analysis.drawing.page import Page
from analysis.drawing.sources import histories
from analysis.drawing.style import Look


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

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a panel a method."""
        by_method(data, canvas, look, "tokens", "tokens", f"validation {data['metric'].iloc[0]}")

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for a panel a method."""
        return curve_size(data)
