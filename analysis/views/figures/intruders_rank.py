"""Intruder dimensions against rank, beside full fine-tuning and the null controls (arXiv 2410.21228, section 4)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.by_rank import CONTROLS, FIELDS, against_rank, positions, rank_axis
from analysis.views.drawing.counts import EPS, MAY_BE_MORE, ROOM, counts, largest_k, mean_counts
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import measured, of, only, panels, values, whole
from analysis.views.drawing.page import Page
from analysis.views.drawing.style import Look

MAIN = "spectrum"
GLYPHS = {MAIN: "o", "dense": "–", "low_rank": "×", "quantisation": "+"}
PANELS = {False: "single vectors (the paper's count)", True: "clusters of near-equal values as one"}


@FIGURES.register("intruders_rank")
class IntrudersRank(Figure):
    """How many intruders each rank has, counted as the paper does and cluster-aware."""

    title = "Intruder dimensions by rank"
    needs = "intruder tables: python -m analysis.intruders <runs>"
    intervals = MAY_BE_MORE
    marks = f"grey: {', '.join(f'{glyph} {CONTROLS[name]}' for name, glyph in GLYPHS.items())}"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting, control and way of counting."""
        rows = counts(page, lambda rows: rows["step"].isna() & (rows["eps"] == EPS))
        return mean_counts(largest_k(rows), ["control", "clustered", "k", "vectors"])

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return both ways of counting side by side."""
        rows = data.assign(at=positions(data, data), panel=data["clustered"].map(PANELS))
        first = data.iloc[0]
        y = measured(data, f"intruders of {int(first['vectors'])} (k = {int(first['k'])}, ε = {EPS})", *ROOM)
        y["axis"] = whole()
        own, null = rows[rows["control"] == "none"], rows[rows["control"] != "none"]
        layers = only(against_rank(own, look, y), "method")
        # null controls stand where the runs that they belong to stand: their norm and rank are theirs
        x, controls = rank_axis(rows["at"], rows["rank"]), alt.Chart().transform_filter("isValid(datum.null)")
        ends = controls.mark_rule(style="control", strokeWidth=0.7, opacity=0.6, clip=True, aria=False).encode(
            x=x, y=of(y, "low"), y2="high"
        )
        layers += [ends, controls.mark_text(style="glyph", aria=False).encode(x=x, y=y, text="null:N")]
        null = null.assign(null=null["control"].map(GLYPHS), method=None)
        null.loc[null["control"] != MAIN, ["low", "high"]] = None  # the quantiles of all would cover each other
        both = values(pd.concat([own, null.astype(object)], ignore_index=True), "panel", *FIELDS, "null")
        return panels(layers, both, list(PANELS.values()), look, height=130)
