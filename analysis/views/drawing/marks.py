"""Points with intervals, lines with bands, axes and legends: the parts of charts that several figures share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.views.drawing.series import numbers
from analysis.views.drawing.style import DASHES, SHAPES, Look, cycled, missing, width

ENDS = ("value", "low", "high")
NO_RANK = "none"
DASHED = {"symbolStrokeWidth": 1.2, "symbolSize": 120, "symbolType": "stroke"}
"""What a legend of dashes has that one of points has not."""


def values(rows: pd.DataFrame, *columns: str) -> alt.InlineData:
    """Return the rows as a chart's data: these columns and the runs behind each; six digits, missing ones null."""
    kept = [name for name in dict.fromkeys([*columns, "ids"]) if name in rows.columns]
    cells = rows[kept].astype(object).to_dict("records")
    return alt.InlineData(values=[{name: _plain(value) for name, value in row.items()} for row in cells])


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if missing(value) or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return float(f"{value:.6g}") if isinstance(value, float) else value


def by_method(rows: pd.DataFrame, look: Look, line: bool = False) -> dict[str, Any]:
    """Return the encodings that tell methods apart: colour and shape, with lines their dashes too."""
    present = list(dict.fromkeys(rows["method"].astype(str)))
    domain = [*look.methods, *(name for name in present if name not in look.methods)]
    legend = alt.Legend(title=None, values=present, columns=look.columns(present))
    return _apart("method", "nominal", domain, legend, line)


def by_rank(rows: pd.DataFrame, look: Look) -> dict[str, Any]:
    """Return the encodings that tell ranks apart, of rows that :func:`ranked` named, and other settings by dashes."""
    present = set(rows["of_rank"])
    domain = [*map(str, look.ranks), NO_RANK]
    legend = alt.Legend(title="rank", values=[name for name in domain if name in present])
    found = _apart("of_rank", "ordinal", domain, legend, False)
    settings = list(dict.fromkeys(rows["setting"]))
    if len(settings) > 1:
        scale = alt.Scale(domain=settings, range=cycled(DASHES, len(settings)))
        columns = look.columns(settings)
        legend = alt.Legend(title="setting", columns=columns, labelExpr="datum.label || 'default'", **DASHED)
        found["strokeDash"] = alt.StrokeDash("setting:N", scale=scale, legend=legend)
    return found


def by_name(names: list[str], field: str, look: Look) -> dict[str, Any]:
    """Return the encodings that tell these values of a field apart, whatever they are."""
    return _apart(field, "nominal", names, alt.Legend(title=None, columns=look.columns(names)), True)


def ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the name of each one's rank, in which a method without ranks has one too."""
    return rows.assign(of_rank=[NO_RANK if missing(rank) else str(int(rank)) for rank in rows["rank"]])


def _apart(field: str, kind: Any, domain: list[str], legend: alt.Legend, line: bool) -> dict[str, Any]:
    shape = alt.Scale(domain=domain, range=cycled(SHAPES, len(domain)))
    found = {
        "color": alt.Color(field, type=kind, scale=alt.Scale(domain=domain), legend=legend),
        "shape": alt.Shape(field, type="nominal", scale=shape, legend=legend),  # of a rank too: no shape is more
    }
    if line:
        # not by a scale, whose legend would dash the edges of the markers
        tests = [f"datum.{field} === {json.dumps(name)}" for name in domain]
        pairs = zip(tests, cycled(DASHES, len(domain)), strict=True)
        found["strokeDash"] = {"condition": [{"test": test, "value": dash} for test, dash in pairs], "value": [1, 0]}
    return found


def points(x: alt.X, y: alt.Y, apart: dict[str, Any], **more: Any) -> list[alt.Chart]:
    """Return points with their intervals, ``low`` to ``high`` of y, behind them; no value has no point."""
    bar = alt.Chart().mark_rule(style="interval", clip=True, aria=False)
    bar = bar.encode(x=x, y=of(y, "low"), y2="high", color=apart["color"])
    point = alt.Chart().mark_point(clip=True)
    return [bar, point.encode(x=x, y=y, color=apart["color"], shape=apart["shape"], **more)]


def curves(x: alt.X, y: alt.Y, apart: dict[str, Any], marked: bool = True) -> list[alt.Chart]:
    """Return lines over bands of their intervals, where `marked` with a point at each value."""
    band = alt.Chart().mark_area(style="band", clip=True, aria=False)
    band = band.encode(x=x, y=of(y, "low"), y2="high", color=apart["color"], detail="setting:N")
    line = alt.Chart().mark_line(clip=True, aria=False)
    dash = {key: apart[key] for key in ("color", "strokeDash") if key in apart}
    point = alt.Chart().mark_point(clip=True).encode(x=x, y=y, color=apart["color"], shape=apart["shape"])
    return [band, line.encode(x=x, y=y, detail="setting:N", **dash), *([point] if marked else [])]


def of(axis: Any, field: str) -> Any:
    """Return the same axis with another field on it."""
    found = axis.copy(deep=False)
    found["field"] = field
    return found


def only(layers: list[alt.Chart], field: str) -> list[alt.Chart]:
    """Return the layers with the rows alone that have the field: panels share one table, whatever else they show."""
    return [layer.transform_filter(f"isValid(datum.{field})") for layer in layers]


def reference(value: float, name: str = "") -> list[alt.Chart]:
    """Return a grey line across with its name on it, such as the untouched model's score."""
    one, y = alt.Chart(alt.InlineData(values=[{}])), alt.YDatum(float(f"{value:.6g}"))
    line = one.mark_rule(style="reference", aria=False).encode(y=y)
    text = one.mark_text(style="note", align="right", baseline="bottom", dy=-1, aria=False)
    return [line, text.encode(x=alt.value("width"), y=y, text=alt.value(name))] if name else [line]


def panels(layers: list[alt.Chart], data: alt.InlineData, names: list[str], look: Look, **size: Any) -> alt.FacetChart:
    """Return a panel for each name in the field ``panel``, on the same axes; `size` is height, and columns at most."""
    across = look.across(len(names), size.get("columns", 3))
    width = max(60, look.width // across - 30)
    header = alt.Header(labelLimit=width)
    chart = alt.layer(*layers, data=data).properties(width=width, height=size.get("height", 95))
    facet = alt.Facet("panel:N", title=None, sort=names, header=header)
    found = chart.facet(facet=facet, columns=across, spacing=10)
    # one axis below each column would stand below an empty place
    return found.resolve_axis(x="independent") if len(names) % across and len(names) > across else found


def headed(chart: Any, text: str | list[str]) -> Any:
    """Return a chart with a heading of its own, as panels have."""
    return chart.properties(title=alt.TitleParams(text, style="panel", frame="group", offset=4))


def measured(data: pd.DataFrame, title: str | list[str], *more: float, share: bool = False) -> alt.Y:
    """Return a y axis of the field ``value`` that shows all of them; see :func:`domain` for the rest."""
    ends = domain(data, *more, share=share)
    return alt.Y(field="value", type="quantitative", title=title, scale=linear(ends))


def linear(ends: list[float]) -> alt.Scale:
    """Return a scale from end to end, not widened to round numbers."""
    return alt.Scale(domain=ends, nice=False, zero=False)


def spread(known: pd.Series[Any]) -> alt.Scale:
    """Return a scale from the least value to the largest, with room for half a marker at either end."""
    return linear(domain(pd.DataFrame(dict.fromkeys(ENDS, known)), edge=0.03))


def domain(
    data: pd.DataFrame, *more: float, names: tuple[str, str, str] = ENDS, share: bool = False, edge: float = 0.06
) -> list[float]:
    """Return the ends of an axis: all values, and of their intervals no more than three times the values' range.

    The t interval of two seeds is 12.7 standard errors to each side: on an axis that held all of it, nothing
    could be told apart. What is longer runs out of the frame. With `share`, values that all lie from 0 to 1, as
    accuracies do, have an axis that ends there, whatever a t interval says.
    """
    value, low, high = (numbers(data, name) for name in names)
    least, most = min([value.min(), *more]), max([value.max(), *more])
    room = (most - least) or float((high - low).max()) or abs(most) or 1.0
    room = room if np.isfinite(room) else 1.0
    bottom, top = max(least - room, min(low.min(), least)), min(most + room, max(high.max(), most))
    bottom, top = (least if np.isnan(bottom) else bottom), (most if np.isnan(top) else top)
    if share and least >= 0 and most <= 1:
        bottom, top = max(bottom, 0.0), min(top, 1.0)
    edge *= (top - bottom) or room
    return [float(f"{bottom - edge:.6g}"), float(f"{top + edge:.6g}")]


def log(known: Iterable[float], widen: float = 1.15) -> dict[str, Any]:
    """Return scale and axis of a logarithmic axis that holds these positive values, with few ticks at round ones."""
    positive = [float(value) for value in known if value > 0]
    if not positive:
        return {"scale": alt.Scale(type="log"), "axis": alt.Axis()}
    least, most = min(positive), max(positive)
    room = max(widen, (most / least) ** 0.03) if widen > 1 else 1.0  # for half a marker, also over many decades
    ends = [least / room, most * room]
    scale = alt.Scale(type="log", domain=[float(f"{end:.6g}") for end in ends], nice=False)
    return {"scale": scale, "axis": alt.Axis(values=ticks(ends[0], ends[1]))}


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between two positive ones: powers of ten where those are enough, else 1, 2, 5 of each."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    every = -(-len(powers) // most)
    for steps, enough in (((1,), 3), ((1, 3), 3), ((1, 2, 5), 2)):
        found = [float(f"{step}e{power}") for power in powers[::every] for step in steps]
        found = [value for value in found if low <= value <= high]
        if len(found) >= enough:
            return found
    return [float(f"{value:.2g}") for value in (low * (high / low) ** 0.1, high / (high / low) ** 0.1)]


def whole() -> alt.Axis:
    """Return an axis of counts, with ticks at whole numbers."""
    return alt.Axis(tickMinStep=1, format="d")


Spot = tuple[float, float]


def place_labels(
    spots: Sequence[Spot], names: Sequence[str], size: float = 6.0, marker: float = 5.0
) -> list[Spot | None]:
    """Return the middle of each name beside its spot, in points, so that no name covers another or a marker.

    Where all eight sides are taken, a name is left out: the chart's table has it.
    """
    taken = [(x - marker / 2, y - marker / 2, x + marker / 2, y + marker / 2) for x, y in spots]
    found: list[Spot | None] = []
    for (x, y), name in zip(spots, names, strict=True):
        across, up = 0.3 * size * width(name), 0.45 * size
        sides = [(i * (marker / 2 + across + 1), j * (marker / 2 + up)) for i, j in SIDES]
        boxes = [(x + dx - across, y + dy - up, x + dx + across, y + dy + up) for dx, dy in sides]
        free = next((box for box in boxes if not any(_overlap(box, other) for other in taken)), None)
        taken += [free] if free and name else []
        found.append(((free[0] + free[2]) / 2, (free[1] + free[3]) / 2) if free and name else None)
    return found


SIDES = ((1, 0.6), (-1, 0.6), (1, -0.6), (-1, -0.6), (0, 1.1), (0, -1.1), (1, 0), (-1, 0))


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
