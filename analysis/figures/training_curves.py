"""Training loss and gradient norm against step, by rank, of methods that have one (arXiv 2312.03732)."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.drawing.curves import along
from analysis.drawing.figure import FIGURES, PAGE, Figure
from analysis.drawing.marks import Handle, curve, handle, legend, log_axis
from analysis.drawing.page import Page
from analysis.drawing.series import SETTING
from analysis.drawing.sources import binned, histories
from analysis.drawing.style import Look, shorten

SHOWN = {"loss": "training loss", "grad_norm": "gradient norm"}
ACROSS = 4


@FIGURES.register("training_curves")
class TrainingCurves(Figure):
    """Whether a scale that depends on the rank keeps gradients alike: rsLoRA's argument against α/r."""

    title = "Training loss and gradient norm against step, by rank"
    needs = "a method with a rank: python -m harness.run -m method=lora,rslora rank=8,64"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting, bin of steps and measure, at the chosen rate."""
        table = page.chosen
        table = table[table["rank"].notna()]
        parts = []
        for measure in SHOWN:
            rows = histories(table, measure)
            if len(rows):
                parts.append(along(binned(rows)).assign(measure=measure))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw two panels a method, one above the other, a line a rank."""
        methods = list(dict.fromkeys(data["method"]))
        across, blocks = min(ACROSS, len(methods)), -(-len(methods) // ACROSS)
        grid = canvas.subplots(2 * blocks, across, sharex=True, sharey="row", squeeze=False)
        handles: dict[str, Handle] = {}
        for place in range(blocks * across):
            top, column = 2 * (place // across), place % across
            for below, measure in enumerate(SHOWN):
                axes = grid[top + below, column]
                if place >= len(methods):
                    axes.remove()
                    continue
                own = data[(data["method"] == methods[place]) & (data["measure"] == measure)]
                handles |= _lines(axes, own, look)
                values = data.loc[data["measure"] == measure, "value"]
                log_axis(axes.yaxis, values)
                axes.set_ylim(values.min() / 1.6, values.max() * 1.6)  # bands of few seeds run out of the frame
                if not below:
                    axes.set_title(shorten(methods[place], 20))
                if not column:
                    axes.set_ylabel(SHOWN[measure])
                if below:
                    axes.set_xlabel("step")
        legend(canvas, [handles[name] for name in sorted(handles, key=lambda name: (len(name), name))])

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for two panels a method."""
        return PAGE, 3.0 * -(-data["method"].nunique() // ACROSS) + 1.0


def _lines(axes: Axes, rows: pd.DataFrame, look: Look) -> dict[str, Handle]:
    handles = {}
    for (_, rank, _, setting), own in rows.groupby(SETTING, dropna=False, sort=False):
        name = " ".join(filter(None, [f"rank {int(rank)}", setting]))
        curve(axes, own, "step", look.rank(rank), marker=False, linewidth=0.9)
        handles[name] = handle(name, replace(look.rank(rank), marker="none"))
    return handles
