"""Task and forgetting when intruders are scaled by λ, with a control (arXiv 2410.21228, figures 8, 12 and 13)."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from analysis.interventions import OTHER_MODELS
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import by_name, curves, headed, measured, reference, spread, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import named
from analysis.views.drawing.sources import CARRIED, tables
from analysis.views.drawing.style import Look

COLUMNS = [*CARRIED, "mode", "curve", "lambda", "of", "metric", "unit", "value", "low", "high"]
UNITS = {"percent": "% change", "delta": "change"}


@FIGURES.register("lambda_curves")
class LambdaCurves(Figure):
    """Whether intruders cause the forgetting: λ = 1 is the tuned model, λ = 0 takes the vector out.

    Of the task 100 (a_λ - a_1) / a_1, of forgetting 100 (L_λ - L_1) / (L_1 - L_base); where the divisor may be zero,
    the plain difference.
    """

    title = "Task and forgetting when singular vectors are scaled by λ"
    chosen = False
    needs = "the causal test: python -m analysis.interventions run=<id>"
    intervals = "95 % over items, paired"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each run, mode, curve (intruders, control), λ and headline metric."""
        rows = tables(page.every_rate, "lambda", _scaled)
        if rows.empty:
            return rows
        keys = ["id", "mode", "of", "metric"]
        known = rows["percent"].notna() | (rows["lambda"] == 1)
        percent = known.groupby([rows[key] for key in keys]).transform("all")
        rows = rows.assign(unit=percent.map({True: "percent", False: "delta"}))
        ends = {
            "value": ("percent", "delta"),
            "low": ("percent_low", "delta_low"),
            "high": ("percent_high", "delta_high"),
        }
        for name, (share, plain) in ends.items():
            rows[name] = rows[share].where(percent, rows[plain]).mask(rows["lambda"] == 1, 0.0)
        return rows[COLUMNS].assign(name=named(rows, rate=True), ids=rows["id"]).drop(columns="id")

    def chart(self, data: pd.DataFrame, look: Look) -> alt.ConcatChart:
        """Return a row of panels a run: the task, then each probe."""
        measures = list(dict.fromkeys(zip(data["of"], data["metric"], strict=True)))
        names = list(dict.fromkeys(data["curve"]))
        apart = by_name(names, "curve", look)
        parts = [
            _panel(run[(run["of"] == of) & (run["metric"] == metric)], apart)
            for _, run in data.groupby(["name", "seed", "mode"], sort=False)
            for of, metric in measures
        ]
        return alt.concat(*parts, columns=look.across(len(measures)))


def _scaled(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows are of headline metrics, and of a model whose vectors were scaled."""
    return rows["headline"].fillna(False).astype(bool) & ~rows["curve"].isin(OTHER_MODELS)


def _panel(rows: pd.DataFrame, apart: dict[str, Any]) -> alt.LayerChart:
    """Return one measure of one run; an empty panel where the run has no such measure."""
    if rows.empty:
        return alt.layer(*reference(0, "not measured")).properties(width=100, height=90)
    first = rows.iloc[0]
    what = "the score" if first["of"] == "task" else "what was forgotten"
    x = alt.X(field="lambda", type="quantitative", title="λ", scale=spread(rows["lambda"]), axis=alt.Axis(tickCount=4))
    layers = [*reference(0), *curves(x, measured(rows, [f"{UNITS[first['unit']]} of", what], 0), apart)]
    data = values(rows.assign(setting=""), "curve", "lambda", "value", "low", "high", "setting")
    text = [f"{first['name']}, {first['mode']}", f"{first['of']} {first['metric']}"]
    return headed(alt.layer(*layers, data=data), text).properties(width=100, height=90)
