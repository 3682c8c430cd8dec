"""Intruder dimensions against the score and against forgetting, with Spearman's ρ (arXiv 2410.21228, figure 11)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import by_method, domain, headed, linear, values, whole
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import numbers
from analysis.views.drawing.sources import change_of, forgetting_label, same_probe
from analysis.views.drawing.style import Look

COLUMNS = ["method", "rank", "learning_rate", "seed", "intruders", "intruders_excess", "intruders_k", "intruders_eps"]


@FIGURES.register("intruders_forgetting")
class IntrudersForgetting(Figure):
    """Whether runs with more intruders forget more; every run is a point, at every rate."""

    title = "Intruder dimensions against score and against forgetting, a point a run"
    chosen = False
    needs = "intruder tables of runs with a forgetting probe: python -m analysis.intruders <runs>"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row a run and what it is held against ("score" or "forgetting"), with Spearman's ρ and its p.

        Only runs that were analysed at the same k and ε count: those of the most common pair.
        """
        table = same_probe(page.every_rate)
        table = table[numbers(table, "intruders").notna()]
        if not table.empty:
            pair = table["intruders_k"].astype(str) + " " + table["intruders_eps"].astype(str)
            table = table[pair == pair.value_counts().index[0]]
        parts = [
            _against(table, "score", str(table["metric"].iloc[0]) if len(table) else ""),
            _against(table, "forgetting", forgetting_label(table)),
        ]
        return pd.concat(parts, ignore_index=True)

    def chart(self, data: pd.DataFrame, look: Look) -> alt.ConcatChart:
        """Return both relations side by side."""
        ends = domain(data.assign(low=data["intruders"], high=data["intruders"], value=data["intruders"]), 0, 1)
        first = data.iloc[0]
        title = f"intruder dimensions (k = {first['intruders_k']}, ε = {first['intruders_eps']:g})"
        x = alt.X(field="intruders", type="quantitative", title=title, scale=linear(ends), axis=whole())
        parts = [_relation(rows, look, x) for _, rows in data.groupby("of", sort=False)]
        return alt.concat(*parts, columns=look.across(len(parts)))


def _relation(rows: pd.DataFrame, look: Look, x: alt.X) -> alt.Chart:
    name = rows["name"].iloc[0]
    title = f"test {name}" if rows["of"].iloc[0] == "score" else change_of(name)
    y = alt.Y(field="value", type="quantitative", title=title, scale=alt.Scale(zero=False))
    chart = alt.Chart(values(rows, "method", "intruders", "value")).mark_point(opacity=0.8)
    return headed(chart.encode(x=x, y=y, **by_method(rows, look)), _said(rows)).properties(width=190, height=150)


def _against(table: pd.DataFrame, of: str, name: str) -> pd.DataFrame:
    rho, p = spearman(numbers(table, "intruders"), numbers(table, of))
    rows = table[COLUMNS].assign(of=of, name=name, value=numbers(table, of), rho=rho, p=p, ids=table["id"])
    return rows[rows["value"].notna()]


def spearman(x: pd.Series[float], y: pd.Series[float]) -> tuple[float, float]:
    """Return Spearman's ρ and its two-sided p; NaN below 3 pairs, or where one of the two never changes."""
    from scipy import stats

    known = x.notna() & y.notna()
    if known.sum() < 3 or x[known].nunique() < 2 or y[known].nunique() < 2:
        return float("nan"), float("nan")
    found = stats.spearmanr(x[known], y[known])
    return float(found.statistic), float(found.pvalue)


def _said(rows: pd.DataFrame) -> str:
    rho, p = rows["rho"].iloc[0], rows["p"].iloc[0]
    if pd.isna(rho):
        return f"no Spearman's ρ: one side never changes, n = {len(rows)}" if len(rows) > 2 else f"n = {len(rows)}"
    signed = f"{rho:.2f}".replace("-", "−")
    return f"Spearman's ρ = {signed}, p {'< .001' if p < 0.001 else f'= {p:.3f}'}, n = {len(rows)} runs"
