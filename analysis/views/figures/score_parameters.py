"""Score against the number of trainable parameters."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.effects.outcomes import LEARNING
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import by_method, log, measured, points, reference, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING, effects_over_seeds
from analysis.views.drawing.style import COLUMN, Look


@FIGURES.register("score_parameters")
class ScoreParameters(Figure):
    """What more trainable parameters buy; each method and rank at the rate that its validation score chose."""

    title = "Score against trainable parameters"
    needs = "a finished run: python -m harness.run"
    width = COLUMN

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank and further setting."""
        table = page.chosen
        by = [*SETTING, "trainable", "metric", "base"]
        return effects_over_seeds(page.effects, table.assign(base=table["base"].mean()), by, LEARNING)

    def chart(self, data: pd.DataFrame, look: Look) -> alt.LayerChart:
        """Return a point a row."""
        trainable = data["trainable"].astype("float64")
        wide = trainable.max() > 5 * trainable.min()
        # a little apart: LoRA, rsLoRA and QLoRA of one rank train equally many
        place = data["method"].map({method: at for at, method in enumerate(dict.fromkeys(data["method"]))})
        at = trainable * (1.05 ** (place - place.max() / 2) if wide else 1.0)
        x = alt.X(field="at", type="quantitative", title="trainable parameters", **log(at, 2.0))
        base = data["base"].iloc[0]
        y = measured(data, f"test {data['metric'].iloc[0]}", base, share=True)
        layers = [*reference(base, "untouched"), *points(x, y, by_method(data, look))]
        rows = values(data.assign(at=at), "at", "value", "low", "high", "method", "rank")
        return alt.layer(*layers, data=rows).properties(width=190, height=150)
