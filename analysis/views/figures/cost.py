"""Memory and time by method."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import by_method, domain, linear, of, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING, named, numbers, over_seeds
from analysis.views.drawing.style import Look

GIB = 2**30
MEASURES = {
    "train_seconds": "training, seconds",
    "tokens_per_second": "tokens a second",
    "train_peak": "peak memory of training, GiB",
    "saved_mb": "saved state, MB",
}


@FIGURES.register("cost")
class Cost(Figure):
    """What a method costs: seconds, speed, peak memory, and what must be stored for each task."""

    title = "Time and memory by method and rank"
    needs = "a finished run: python -m harness.run"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting and measure, at the rate that validation chose."""
        table = page.chosen
        scaled = {
            "train_peak": numbers(table, "train_peak_bytes") / GIB,
            "saved_mb": numbers(table, "saved_bytes") / 1e6,
        }
        table = table.assign(**scaled)
        parts = [over_seeds(table, SETTING, measure).assign(measure=measure) for measure in MEASURES]
        found = pd.concat([part for part in parts if len(part)], ignore_index=True)
        return found.assign(name=named(found))

    def chart(self, data: pd.DataFrame, look: Look) -> alt.ConcatChart:
        """Return a panel a measure, the settings below each other; every axis begins at 0."""
        shown = [measure for measure in MEASURES if measure in set(data["measure"])]
        names = list(dict.fromkeys(data["name"]))
        across = look.across(len(shown), 4)
        parts = [_panel(data[data["measure"] == one], names, look, place % across) for place, one in enumerate(shown)]
        return alt.concat(*parts, columns=across, spacing=8)


def _panel(rows: pd.DataFrame, names: list[str], look: Look, place: int) -> alt.LayerChart:
    """Return one measure; the leftmost panels alone name the settings."""
    apart = by_method(rows, look)
    for one in apart.values():
        one["legend"] = None
    most = domain(rows, 0)[1]
    ends = [-0.04 * most, most]  # a marker at 0 is not cut in half
    named = alt.Axis(ticks=False, domain=False, grid=True, labelLimit=130) if not place else None
    y = alt.Y("name:N", sort=names, scale=alt.Scale(domain=names), title=None, axis=named)
    title = MEASURES[rows["measure"].iloc[0]].split(", ")
    x = alt.X(field="value", type="quantitative", title=title, scale=linear(ends))
    bar = alt.Chart().mark_rule(style="interval", clip=True, aria=False)
    bar = bar.encode(x=of(x, "low"), x2="high", y=y, color=apart["color"])
    layers = [bar, alt.Chart().mark_point().encode(x=x, y=y, **apart)]
    data = values(rows, "method", "name", "value", "low", "high")
    return alt.layer(*layers, data=data).properties(width=100, height=alt.Step(11))
