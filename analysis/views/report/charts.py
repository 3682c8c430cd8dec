"""The charts of the page: the specifications of ``analysis/drawing``, data by column, the theme in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import pandas as pd

from analysis.effects.blocks import Known
from analysis.views.drawing.command import figures
from analysis.views.drawing.figure import Figure
from analysis.views.drawing.page import Page, every_page
from analysis.views.drawing.picture import heading, specification
from analysis.views.drawing.style import DARK, LIGHT, SHAPES, Look, config
from harness.errors import HarnessError

SIZE = 1.55
"""A letter on the screen to one on paper: labels of 7 points have 11 pixels, titles 12."""
FONTS = 'system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK KR", NanumGothic, sans-serif'
GROUPS = {
    "Learning, forgetting and cost": (
        "across",
        "pareto",
        "score_parameters",
        "forgetting_rank",
        "cost",
        "sequence_grid",
    ),
    "Along training": ("learning_tokens", "forgetting_tokens", "training_curves"),
    "Learning rates": ("score_rate",),
    "Intruder dimensions": (
        *("intruders_rank", "intruders_forgetting", "lambda_curves", "mitigations"),
        *("intruders_layer", "intruders_kind"),
        *("intruders_eps", "intruders_k", "intruders_step", "similarity_map", "one_intruder"),
    ),
    "The weight change": ("effective_rank", "k90_map", "spectra"),
}
"""Headings, and under each its figures in this order; a figure in none stands at the end."""
LEAD = ("pareto", "score_parameters", "across")
"""The figure beside a paragraph of the answer: the first of these that there is."""
PLACES = {"at", "label", "label_x", "label_y", "ids", "panel", "optimal", "warning"}
"""Fields that say where a mark stands, and are in no table."""


def charts(table: pd.DataFrame, known: Known | None = None) -> dict[str, Any]:
    """Return what the scripts draw of these runs; a point's ``ids`` are positions in the table."""
    rows: dict[str, int] = {}
    for at, one in enumerate(table["id"].astype(str)):
        rows.setdefault(one, at)
    look, every = Look.of(table), figures()
    found = [_page(page, every, look, rows) for page in every_page(table, known)]
    shown = {figure["name"] for page in found for group in page["groups"] for figure in group["figures"]}
    themes = {name: _theme(theme) for name, theme in (("light", LIGHT), ("dark", DARK))}
    return {
        "config": themes,
        "shapes": list(SHAPES),
        "pages": found,
        "lacking": [{"title": one.title, "needs": one.needs} for one in every if one.name not in shown],
        "scatter": _template(_scatter()),
        "line": _template(_line()),
    }


def _theme(theme: Any) -> dict[str, Any]:
    found = config(theme, FONTS, SIZE)
    mark = {"tooltip": {"content": "data"}, "cursor": "pointer"}
    return found | {"mark": mark, "autosize": {"type": "pad"}}


def _page(page: Page, every: list[Figure], look: Look, rows: dict[str, int]) -> dict[str, Any]:
    """Return the figures of one model and task by their headings."""
    found = {
        one["name"]: one
        for figure in every
        if figure.several == page.several and (one := _figure(figure, page, look, rows))
    }
    names = set(found)
    groups = {title: [found.pop(name) for name in names if name in found] for title, names in GROUPS.items()}
    groups["More"] = list(found.values())
    shown = [{"title": title, "figures": some} for title, some in groups.items() if some]
    lead = next((name for name in LEAD if name in names), None)
    return {"name": f"{page.model}, {page.task}", "place": page.place, "lead": lead, "groups": shown}


def _figure(figure: Figure, page: Page, look: Look, rows: dict[str, int]) -> dict[str, Any] | None:
    """Return one figure, None where the runs have nothing of it or a file of theirs is damaged."""
    try:
        data = figure.data(page)
    except HarnessError:
        return None
    if data.empty:
        return None
    spec = specification(figure, data, look)
    sets = spec.pop("datasets")
    spec["datasets"] = {name: packed(values, rows) for name, values in sets.items()}
    _enlarge(spec)
    said = " · ".join(heading(figure, page, data))
    return {"name": figure.name, "title": figure.title, "said": said, "spec": spec, "fields": _fields(sets)}


def _fields(sets: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the fields of a chart's table that hold anything, in the order of the chart's data."""
    rows = [row for values in sets.values() if values and "ids" in values[0] for row in values]
    named = dict.fromkeys(name for row in rows for name, value in row.items() if value not in (None, ""))
    return [name for name in named if name not in PLACES and not (name == "rank" and "of_rank" in named)]


def packed(values: list[dict[str, Any]], rows: dict[str, int]) -> dict[str, Any]:
    """Return rows by column, texts as positions in a list of them: a fifth of what rows would take of the page."""
    columns: dict[str, Any] = {}
    for name in values[0] if values else ():
        cells = [row.get(name) for row in values]
        if name == "ids":
            cells = [tuple(rows[one] for one in str(cell).split() if one in rows) for cell in cells]
        columns[name] = _coded(cells) if any(isinstance(cell, str | tuple) for cell in cells) else cells
    return {"size": len(values), "columns": columns}


def _coded(cells: list[Any]) -> dict[str, list[Any]]:
    different = {cell: at for at, cell in enumerate(dict.fromkeys(cells))}
    return {"of": list(different), "at": [different[cell] for cell in cells]}


def _enlarge(spec: dict[str, Any]) -> None:
    """Make panels as high as their letters are large; how wide they are the page decides."""
    for view in _views(spec):
        if isinstance(view.get("height"), int | float):
            view["height"] = round(view["height"] * SIZE)
        elif "height" in view:
            view["height"] = {"step": round(view["height"]["step"] * SIZE)}


def _views(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec
    for part in [spec.get("spec"), *spec.get("concat", []), *spec.get("vconcat", [])]:
        if part:
            yield from _views(part)


def _template(chart: Any) -> dict[str, Any]:
    """Return a chart whose rows, titles and scales the page fills in as its reader chooses."""
    spec: dict[str, Any] = chart.to_dict(validate=False)
    del spec["config"]
    return spec


def _numbers(kind: Any, field: str) -> Any:
    return kind(field=field, type="quantitative", scale=alt.Scale(zero=False, padding=14), axis=alt.Axis(tickCount=8))


def _scatter() -> alt.LayerChart:
    """Return any number against any other, a point a run."""
    x, y = _numbers(alt.X, "x"), _numbers(alt.Y, "y")
    colour, shape = alt.Color("group:N"), alt.Shape("group:N")
    bar = alt.Chart().mark_rule(style="interval", aria=False, tooltip=None)
    layers = [
        bar.transform_filter("isValid(datum.yLow)").encode(x=x, y=_numbers(alt.Y, "yLow"), y2="yHigh", color=colour),
        bar.transform_filter("isValid(datum.xLow)").encode(y=y, x=_numbers(alt.X, "xLow"), x2="xHigh", color=colour),
    ]
    point = (
        alt.Chart().mark_point(size=90, opacity=0.85).encode(x=x, y=y, color=colour, shape=shape, description="words:N")
    )
    zoom = alt.selection_interval(name="zoom", bind="scales")
    chart = alt.layer(*layers, point.add_params(zoom), data=alt.NamedData(name="rows"))
    return chart.properties(width=700, height=400)


def _line() -> alt.Chart:
    """Return a line a run."""
    x = alt.X(field="x", type="quantitative")
    y = alt.Y(field="y", type="quantitative", scale=alt.Scale(zero=False))
    chart = alt.Chart(alt.NamedData(name="rows")).mark_line(opacity=0.7, strokeWidth=1.75)
    chart = chart.encode(x=x, y=y, color=alt.Color("group:N"), detail="row:N", description="words:N")
    return chart.add_params(alt.selection_interval(name="zoom", bind="scales")).properties(width=700, height=400)
