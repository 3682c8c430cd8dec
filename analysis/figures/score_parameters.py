"""Score against the number of trainable parameters."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.figure import FIGURES, Figure
from analysis.drawing.marks import bars, frame, handle, legend, log_axis, reference
from analysis.drawing.page import Page
from analysis.drawing.scores import effects_over_seeds
from analysis.drawing.series import SETTING
from analysis.drawing.style import Look
from analysis.effects.outcomes import LEARNING


@FIGURES.register("score_parameters")
class ScoreParameters(Figure):
    """What more trainable parameters buy; each method and rank at the rate that its validation score chose."""

    title = "Score against trainable parameters"
    needs = "a run that ended well: python -m harness.run"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank and further setting."""
        table = page.chosen
        by = [*SETTING, "trainable", "metric", "base"]
        return effects_over_seeds(page.effects, table.assign(base=table["base"].mean()), by, LEARNING)

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a point a row."""
        axes = canvas.subplots()
        handles = []
        trainable = data["trainable"].astype("float64")
        wide = trainable.max() > 5 * trainable.min()
        among = data["method"].nunique()
        for place, (method, own) in enumerate(data.groupby("method", sort=False)):
            # a little apart: LoRA, rsLoRA and QLoRA of one rank train equally many
            apart = 1.05 ** (place - (among - 1) / 2) if wide else 1.0
            rows = own.assign(trainable=own["trainable"].astype("float64") * apart)
            bars(axes, rows, "trainable", look.method(method))
            handles.append(handle(method, look.method(method), line=False))
        reference(axes, data["base"].iloc[0], "untouched")
        frame(axes, data, data["base"].iloc[0], share=True)
        log_axis(axes.xaxis, trainable)
        axes.set_xlim(trainable.min() / 2, trainable.max() * 2)
        axes.set(xlabel="trainable parameters", ylabel=f"test {data['metric'].iloc[0]}")
        legend(canvas, handles)
