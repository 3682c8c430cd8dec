"""One intruder dimension against all base vectors (arXiv 2410.21228, figure 2c)."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from analysis.views.drawing.counts import EPS
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import headed, reference, spread, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import named
from analysis.views.drawing.sources import TOP, at_end, clearest, finetuned, similarities, tables
from analysis.views.drawing.style import Look


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
        rows = similarities(page)
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

    def chart(self, data: pd.DataFrame, look: Look) -> alt.ConcatChart:
        """Return a panel a tuned vector, the least similar first."""
        vectors = data.groupby("tuned_index")["largest"].first().sort_values().index
        parts = [_bars(data[data["tuned_index"] == index].sort_values("base_index")) for index in vectors]
        return alt.concat(*parts, columns=look.across(len(parts)))


def _bars(rows: pd.DataFrame) -> alt.LayerChart:
    first = rows.iloc[0]
    x = alt.X(field="base_index", type="quantitative", title="base vector", scale=spread(rows["base_index"]))
    y = alt.Y(field="value", type="quantitative", title="|cos|", scale=alt.Scale(domain=[0, 1]))
    bars = alt.Chart(values(rows, "base_index", "value")).mark_rule(style="bar").encode(x=x, y=y, y2=alt.Y2Datum(0))
    what = "an intruder" if first["intruder"] else "no intruder"
    text = [f"tuned vector {first['tuned_index']}: largest |cos| {first['largest']:.2f}, {what}"]
    text.append(f"{first['name']}, {first['matrix']}")
    return headed(alt.layer(bars, *reference(EPS, f"ε = {EPS}")), text).properties(width=190, height=120)


def _largest(run: pd.DataFrame, matrix: str) -> dict[Any, float]:
    """Return the upper bound of max |cos| over all base vectors of each tuned vector that was counted."""
    rows = tables(run, "vectors", lambda rows: at_end(rows) & finetuned(rows) & (rows["matrix"] == matrix))
    return {} if rows.empty else dict(zip(rows["index"], rows["cos_u"], strict=True))
