"""One intruder dimension against all base vectors (arXiv 2410.21228, figure 2c)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.counts import EPS
from analysis.drawing.figure import FIGURES, PAGE, Figure
from analysis.drawing.marks import reference
from analysis.drawing.page import Page
from analysis.drawing.series import named
from analysis.drawing.similarity import TOP, clearest, similarities
from analysis.drawing.sources import at_end, finetuned, tables
from analysis.drawing.style import COLOURS, Look, wrapped


@FIGURES.register("one_intruder")
class OneIntruder(Figure):
    """The tuned vector that resembles the base least, beside one of the same matrix that resembles it most."""

    title = "One tuned singular vector against the base vectors"
    chosen = False
    needs = "similarities with all base vectors: python -m analysis.intruders <run> similarity=<the model's width>"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each base vector and of the two tuned vectors.

        ``largest`` is the largest |cos| with any base vector, not only with those shown, where the table of vectors
        has it, and ``intruder`` whether that is below ε.
        """
        rows = similarities(page.every_rate)
        if rows.empty:
            return rows
        least = clearest(rows)
        rows = rows[(rows["id"] == least["id"]) & (rows["matrix"] == least["matrix"])]
        most = rows[rows["tuned_index"] < TOP].groupby("tuned_index")["cos"].max()
        rows = rows[rows["tuned_index"].isin([least["tuned_index"], most.idxmax()])]
        largest = _largest(page.every_rate[page.every_rate["id"] == least["id"]], least["matrix"])
        rows = rows.assign(largest=rows["tuned_index"].map(largest).fillna(rows["tuned_index"].map(most)))
        rows = rows.assign(name=named(rows, rate=True), value=rows["cos"], ids=rows["id"])
        return rows.assign(intruder=rows["largest"] < EPS).drop(columns=["cos", "id"])

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a panel a tuned vector, the least similar first."""
        vectors = data.groupby("tuned_index")["largest"].first().sort_values()
        both = canvas.subplots(1, len(vectors), sharey=True, squeeze=False)[0]
        for axes, index in zip(both, vectors.index, strict=True):
            rows = data[data["tuned_index"] == index].sort_values("base_index")
            axes.vlines(rows["base_index"], 0, rows["value"], color=COLOURS[0], linewidth=0.8)
            reference(axes, EPS, f"ε = {EPS}")
            what = "an intruder" if rows["intruder"].iloc[0] else "no intruder"
            axes.set_title(f"tuned vector {index}: largest |cos| {rows['largest'].iloc[0]:.2f}, {what}")
            axes.set(xlabel="base vector", ylim=(0, 1.02))
        both[0].set_ylabel("|cos|")
        first = data.iloc[0]
        canvas.supxlabel(wrapped([first["name"], first["matrix"]], PAGE), fontsize=7, x=0.01, ha="left")

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches of both columns."""
        return PAGE, 2.9


def _largest(run: pd.DataFrame, matrix: str) -> dict[Any, float]:
    """Return the upper bound of max |cos| over all base vectors of each tuned vector that was counted."""
    rows = tables(run, "vectors", lambda rows: at_end(rows) & finetuned(rows) & (rows["matrix"] == matrix))
    return {} if rows.empty else dict(zip(rows["index"], rows["cos_u"], strict=True))
