"""What holds over several tasks and models (Agarwal et al. 2021, arXiv 2108.13264, figures 2 and 9)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.effects.across import across
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import by_method, domain, linear, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.style import Look

RANK, MIDDLE, FIRST = "mean rank, 1 is best", "interquartile mean", "P(first > this)"
"""The panels; scores are normalised as shares of the way from the untouched model to a perfect score."""


@FIGURES.register("across")
class Across(Figure):
    """Which configurations do well over all tasks and models that share them."""

    title = "Over tasks and models"
    needs = "two configurations on two tasks or models: python -m harness.run -m task=… method=…"
    intervals = "95 % of draws of seeds within each task"
    marks = "P: how probably the first line's configuration scores higher than this one, ½ dashed"
    several = True

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each configuration and panel, the best mean rank first."""
        found = across(page.effects)
        if found is None:
            return pd.DataFrame()
        chosen = page.effects.chosen
        rows = found.rows.assign(ids=[_ids(chosen, name) for name in found.rows["configuration"]])
        rows["method"] = [str(chosen.loc[chosen["id"] == ids.split()[0], "method"].iloc[0]) for ids in rows["ids"]]
        best = found.pairs[found.pairs["first"] == rows["configuration"].iloc[0]]
        best = best.rename(columns={"second": "configuration", "probability": "value"})
        best = best[["configuration", "value", "low", "high"]].merge(rows[["configuration", "method", "ids"]])
        parts = [_panel(rows, "mean_rank", RANK), _panel(rows, "iqm", MIDDLE), best.assign(panel=FIRST)]
        return pd.concat([part[part["value"].notna()] for part in parts], ignore_index=True)

    def chart(self, data: pd.DataFrame, look: Look) -> alt.ConcatChart:
        """Return a panel a measure, a line a configuration."""
        names, shown = list(dict.fromkeys(data["configuration"])), list(dict.fromkeys(data["panel"]))
        width = max(60, (look.width - 70) // len(shown) - 20)
        charts = [_chart(data, panel, names, look, first=panel == shown[0]) for panel in shown]
        sized = (one.properties(width=width, height=max(60, 13 * len(names))) for one in charts)
        return alt.concat(*sized, columns=len(shown), spacing=12)


def _ids(chosen: pd.DataFrame, name: str) -> str:
    return " ".join(dict.fromkeys(chosen.loc[chosen["configuration"] == name, "id"].astype(str)))


def _panel(rows: pd.DataFrame, column: str, title: str) -> pd.DataFrame:
    kept = {column: "value", f"{column}_low": "low", f"{column}_high": "high"}
    return rows[["configuration", "method", "ids", *kept]].rename(columns=kept).assign(panel=title)


def _chart(data: pd.DataFrame, panel: str, names: list[str], look: Look, first: bool) -> alt.LayerChart:
    rows = data[data["panel"] == panel]
    ends = domain(rows, *((0.5,) if panel == FIRST else ()), share=panel != RANK)
    x = alt.X("value:Q", title=panel, scale=linear(ends))
    y = alt.Y("configuration:N", sort=names, scale=alt.Scale(domain=names), title=None)
    y = y.axis(labelLimit=90) if first else y.axis(labels=False, ticks=False)
    apart = by_method(data, look)
    for kind in ("color", "shape"):
        apart[kind] = apart[kind].legend(None)  # each line has its name
    bar = alt.Chart().mark_rule(style="interval", aria=False).encode(x="low:Q", x2="high:Q", y=y, color=apart["color"])
    point = alt.Chart().mark_point().encode(x=x, y=y, **apart)
    even = alt.Chart(alt.InlineData(values=[{}])).mark_rule(style="reference", aria=False).encode(x=alt.XDatum(0.5))
    layers = [*([even] if panel == FIRST else []), bar, point]
    return alt.layer(*layers, data=values(rows, "configuration", "method", "value", "low", "high"))
