"""Training loss and gradient norm against step, by rank, of methods that have one (arXiv 2312.03732)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.curves import along
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import by_rank, curves, log, panels, ranked, spread, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.sources import binned, histories
from analysis.views.drawing.style import Look

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

    def chart(self, data: pd.DataFrame, look: Look) -> alt.VConcatChart:
        """Return two panels a method, one above the other, a line a rank."""
        present = [measure for measure in SHOWN if measure in set(data["measure"])]
        return alt.vconcat(*(_panels(data[data["measure"] == measure], look, SHOWN[measure]) for measure in present))


def _panels(data: pd.DataFrame, look: Look, title: str) -> alt.FacetChart:
    rows = ranked(data.assign(panel=data["method"].astype(str)))
    # bands of few seeds run out of the frame
    y = alt.Y(field="value", type="quantitative", title=title, **log(rows["value"], 1.5))
    x = alt.X(field="step", type="quantitative", title="step", scale=spread(rows["step"]), axis=alt.Axis(tickCount=3))
    fields = ("panel", "of_rank", "setting", "step", "value", "low", "high")
    names = list(dict.fromkeys(rows["panel"]))
    return panels(curves(x, y, by_rank(rows, look), False), values(rows, *fields), names, look, columns=4)
