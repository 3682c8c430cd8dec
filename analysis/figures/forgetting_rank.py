"""Forgetting against rank, beside full fine-tuning (arXiv 2410.21228, figure 6)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.by_rank import against_rank
from analysis.drawing.figure import FIGURES, Figure
from analysis.drawing.marks import frame, legend, reference
from analysis.drawing.page import Page
from analysis.drawing.probes import change_of, forgetting_label, same_probe
from analysis.drawing.scores import effects_over_seeds
from analysis.drawing.series import SETTING
from analysis.drawing.style import Look
from analysis.effects.outcomes import FORGETTING


@FIGURES.register("forgetting_rank")
class ForgettingRank(Figure):
    """What each rank forgets, at the rate that its validation score chose."""

    title = "Forgetting by rank"
    needs = "runs with a forgetting probe: python -m harness.run forgetting=default"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank and further setting."""
        table = same_probe(page.chosen)
        found = effects_over_seeds(page.effects, table, SETTING, FORGETTING)
        return found.assign(probe=forgetting_label(table))

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a line a method."""
        axes = canvas.subplots()
        handles = against_rank(axes, data, look)
        reference(axes, 0, "untouched")
        frame(axes, data, 0)
        axes.set_ylabel(change_of(data["probe"].iloc[0]))
        legend(canvas, handles)
