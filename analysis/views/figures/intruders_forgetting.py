"""Intruder dimensions against the score and against forgetting, with Spearman's ρ (arXiv 2410.21228, figure 11)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.effects.correlations import spearman
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import by_method, domain, headed, linear, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING, numbers
from analysis.views.drawing.sources import change_of, forgetting_label, same_probe
from analysis.views.drawing.style import Look

MEANS = ["intruders", "intruders_excess", "relative_change", "score", "forgetting"]


@FIGURES.register("intruders_forgetting")
class IntrudersForgetting(Figure):
    """Whether configurations with more intruders than their spectrum explains forget more; one is one point."""

    title = "Intruder dimensions beyond random changes, against score and forgetting"
    needs = "intruder tables of runs with a forgetting probe: python -m analysis.intruders <runs>"
    marks = "Spearman's ρ over configurations, and at constant ‖ΔW‖/‖W0‖"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row a configuration and what it is held against ("score" or "forgetting"), with Spearman's ρ.

        Numbers are means over seeds at the chosen rate; ``beyond`` is the count over that of random changes of the same
        spectrum. Only runs that were analysed at the same k and ε count: those of the most common pair.
        """
        table = same_probe(page.chosen)
        table = table[numbers(table, "intruders").notna()]
        if table.empty:
            return table
        pair = table["intruders_k"].astype(str) + " " + table["intruders_eps"].astype(str)
        table = table[pair == pair.value_counts().index[0]]
        names = {"score": str(table["metric"].iloc[0]), "forgetting": forgetting_label(table)}
        return pd.concat([_against(_means(table), of, name) for of, name in names.items()], ignore_index=True)

    def chart(self, data: pd.DataFrame, look: Look) -> alt.ConcatChart:
        """Return both relations side by side."""
        ends = domain(data.assign(low=data["beyond"], high=data["beyond"], value=data["beyond"]), 0, 1)
        first = data.iloc[0]
        title = f"intruders beyond random changes (k = {first['intruders_k']:g}, ε = {first['intruders_eps']:g})"
        x = alt.X(field="beyond", type="quantitative", title=title, scale=linear(ends))
        parts = [_relation(rows, look, x) for _, rows in data.groupby("of", sort=False)]
        return alt.concat(*parts, columns=look.across(len(parts)))


def _relation(rows: pd.DataFrame, look: Look, x: alt.X) -> alt.Chart:
    name = rows["name"].iloc[0]
    title = f"test {name}" if rows["of"].iloc[0] == "score" else change_of(name)
    y = alt.Y(field="value", type="quantitative", title=title, scale=alt.Scale(zero=False))
    chart = alt.Chart(values(rows, "method", "rank", "beyond", "value")).mark_point(opacity=0.8)
    said = [rows["rho"].iloc[0], f"at constant ‖ΔW‖: {rows['partial'].iloc[0]}"]
    return headed(chart.encode(x=x, y=y, **by_method(rows, look)), said).properties(width=190, height=150)


def _means(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a configuration: means over seeds."""
    kept = table.assign(**{name: numbers(table, name) for name in (*MEANS, "intruders_k", "intruders_eps")})
    groups = kept.groupby(SETTING, dropna=False, sort=False)
    rows = groups[[*MEANS, "intruders_k", "intruders_eps"]].mean().reset_index()
    ids = [" ".join(some["id"].astype(str)) for _, some in groups]
    return rows.assign(ids=ids, beyond=rows["intruders_excess"].fillna(rows["intruders"]))


def _against(rows: pd.DataFrame, of: str, name: str) -> pd.DataFrame:
    rows = rows.assign(of=of, name=name, value=rows[of])
    rows = rows[rows["value"].notna()]
    rho, partial = (spearman(rows["beyond"], rows["value"], held) for held in (None, rows["relative_change"]))
    return rows.assign(rho=str(rho), partial=str(partial))
