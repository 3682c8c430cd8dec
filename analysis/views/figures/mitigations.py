"""What each way to forget less costs the task: every mitigation's walk from the tuned model on."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import by_name, headed, linear, measured, reference, spread, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import named
from analysis.views.drawing.sources import CARRIED, tables
from analysis.views.drawing.style import Look

COLUMNS = [*CARRIED, "curve", "lambda", "of", "metric", "value", "low", "high", "base", "at_one", "higher_is_better"]


@FIGURES.register("mitigations")
class Mitigations(Figure):
    """Which mitigation leaves less forgotten at the same task score: the one whose walk lies nearer to the base's line.

    All walks begin at the tuned model. λ falls along those that scale; early stopping walks over the kept checkpoints,
    a lower rate over other runs.
    """

    title = "Mitigations: what is left of an ability at each task score"
    chosen = False
    needs = "mitigations: python -m analysis.interventions run=<id> mode=mitigation"
    marks = "Lines begin at the tuned model (λ = 1); models above λ = 1 are not shown."

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each run, mitigation, λ and probe: ``score`` of the task beside the probe's ``value``."""
        rows = tables(page.every_rate, "lambda", _shown)
        if rows.empty:
            return rows
        keys = ["id", "key", "curve", "lambda"]
        task = rows[rows["of"] == "task"][[*keys, "value", "metric"]]
        scores = task.rename(columns={"value": "score", "metric": "score_metric"})
        found = rows[rows["of"] != "task"][["key", *COLUMNS]].merge(scores, on=keys)
        return found.assign(name=named(found, rate=True), ids=found["id"]).drop(columns=["id", "key"])

    def chart(self, data: pd.DataFrame, look: Look) -> alt.ConcatChart:
        """Return a panel for each run and probe; to the right is more of the task."""
        apart = by_name(list(dict.fromkeys(data["curve"])), "curve", look)
        groups = list(data.groupby(["name", "seed", "of"], sort=False))
        parts = [_panel(rows, apart) for _, rows in groups]
        return alt.concat(*parts, columns=look.across(min(3, len(parts))))


def _shown(rows: pd.DataFrame) -> pd.Series[bool]:
    return rows["headline"].fillna(False).astype(bool) & (rows["mode"] == "mitigation") & (rows["lambda"] <= 1)


def _panel(rows: pd.DataFrame, apart: dict[str, Any]) -> alt.LayerChart:
    first = rows.iloc[0]
    better = "" if first["higher_is_better"] else " (lower is better)"
    x = alt.X(field="score", type="quantitative", title=f"test {first['score_metric']}", scale=spread(rows["score"]))
    base = float(first["base"]) if pd.notna(first["base"]) else float(first["at_one"])
    y = measured(rows.assign(low=rows["value"], high=rows["value"]), f"{first['of']} {first['metric']}{better}", base)
    if not first["higher_is_better"]:
        y["scale"] = linear(y["scale"]["domain"][::-1])
    line = alt.Chart().mark_line(clip=True, aria=False)
    path = {key: apart[key] for key in ("color", "strokeDash")}
    line = line.encode(x=x, y=y, detail="curve:N", order=alt.Order("lambda:Q"), **path)
    point = alt.Chart().mark_point(clip=True).encode(x=x, y=y, color=apart["color"], shape=apart["shape"])
    untouched = reference(base, "untouched") if pd.notna(first["base"]) else []
    data = values(rows, "curve", "lambda", "score", "value", "low", "high")
    text = f"{first['name']}, seed {first['seed']:g}"
    return headed(alt.layer(*untouched, line, point, data=data), text).properties(width=170, height=140)
