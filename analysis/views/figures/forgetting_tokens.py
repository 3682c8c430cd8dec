"""Forgetting against tokens (arXiv 2405.09673, figure 3)."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from analysis.views.drawing.curves import along, others, panel_a_method, tokens_axis
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import measured, reference
from analysis.views.drawing.page import Page
from analysis.views.drawing.sources import (
    CARRIED,
    base_of,
    change_of,
    column_of,
    forgetting_label,
    histories,
    same_probe,
)
from analysis.views.drawing.style import Look


@FIGURES.register("forgetting_tokens")
class ForgettingTokens(Figure):
    """How much the first probe's headline metric has changed along the way, against the untouched model."""

    title = "Forgetting: change of the probe against tokens trained on"
    needs = "probes along the way: python -m harness.run forgetting.every=<every so many steps>"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting and step; at step 0 nothing is forgotten."""
        table = same_probe(page.chosen)
        rows = histories(table, column_of)
        base: dict[str, Any] = {run["id"]: base_of(run) for run in table.to_dict("records")}
        rows = rows.assign(value=rows["value"] - rows["id"].map(base).astype("float64"))
        start = rows.drop_duplicates("id")[CARRIED].assign(step=0, tokens=0, value=0.0)
        found = along(pd.concat([start, rows], ignore_index=True)) if len(rows) else along(rows)
        return found.assign(probe=forgetting_label(table))

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel a method."""
        x = tokens_axis(data)
        y = measured(data, change_of(data["probe"].iloc[0]), 0)
        return panel_a_method(data, look, x, y, [*reference(0), *others(data, x, y)])
