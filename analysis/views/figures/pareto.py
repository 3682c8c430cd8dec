"""Learning against forgetting, marker size = duration (arXiv 2405.09673, figure 4)."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from analysis.effects.outcomes import FORGETTING, LEARNING
from analysis.effects.planes import optimal
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import (
    by_method,
    domain,
    linear,
    measured,
    of,
    place_labels,
    points,
    reference,
    values,
)
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING, effects_over_seeds
from analysis.views.drawing.sources import forgetting_label, same_probe
from analysis.views.drawing.style import Look, missing, wrapped

ENDS = ["value", "low", "high"]
HEIGHT = 230
"""Points."""


@FIGURES.register("pareto")
class Pareto(Figure):
    """Which methods learn more at the same forgetting; what lies on the grey steps is beaten by none in both means."""

    title = "Learning against forgetting; marker size: seconds of training"
    needs = "runs with a forgetting probe: python -m harness.run forgetting=default"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank and further setting, at the rate that its validation score chose."""
        table = same_probe(page.chosen)
        score, forgotten = (effects_over_seeds(page.effects, table, SETTING, one) for one in (LEARNING, FORGETTING))
        if score.empty:
            return score
        seconds = table.groupby(SETTING, dropna=False, sort=False)["train_seconds"].mean()
        forgotten = forgotten[[*SETTING, *ENDS]].rename(columns={end: f"forgetting_{end}" for end in ENDS})
        found = score.merge(forgotten, on=SETTING).assign(seconds=seconds.to_numpy())
        facts = {"metric": table["metric"].iloc[0], "probe": forgetting_label(table), "base": table["base"].mean()}
        facts |= {"higher_is_better": _higher_is_better(table)}
        return found.assign(**facts, worse=_worse(table), optimal=_optimal(found, table))

    def chart(self, data: pd.DataFrame, look: Look) -> alt.LayerChart:
        """Return a point a row; right is less forgotten, up is more learned."""
        base, forgotten = data["base"].iloc[0], ("forgetting_value", "forgetting_low", "forgetting_high")
        y = _learned(data, base)
        ends, worse = domain(data, 0, names=forgotten), data["worse"].iloc[0] > 0
        scale = alt.Scale(domain=ends[::-1] if worse else ends, nice=False, zero=False)
        title = wrapped(f"change of {data['probe'].iloc[0]}: the right forgets less".split(), look.width - 60, " ")
        x = alt.X(field="forgetting_value", type="quantitative", title=title, scale=scale)
        rows = _named(data, x, y, look)
        layers = [
            *reference(base, "untouched"),
            _untouched(),
            _steps(x, y),
            *_bars(x, y, rows, look),
            _labels(x, y),
        ]
        fields = ("method", "rank", "setting", *ENDS, *forgotten, "seconds", "optimal", "label", "label_x", "label_y")
        return alt.layer(*layers, data=values(rows, *fields)).properties(width=look.width - 45, height=HEIGHT)


def _learned(data: pd.DataFrame, base: float) -> alt.Y:
    """Return the axis of the metric; where lower is better, as of a perplexity, the lower end is on top."""
    metric = f"test {data['metric'].iloc[0]}"
    if data["higher_is_better"].iloc[0]:
        return measured(data, metric, base, share=True)
    ends = domain(data, base, share=True)[::-1]
    return alt.Y(field="value", type="quantitative", title=f"{metric} (lower is better)", scale=linear(ends))


def _higher_is_better(table: pd.DataFrame) -> bool:
    higher = table["higher_is_better"].iloc[0]
    return bool(pd.isna(higher) or higher)


def _worse(table: pd.DataFrame) -> int:
    """Return the sign of a change for the worse."""
    higher = table["forgetting_higher_is_better"].iloc[0]
    return 1 if pd.isna(higher) or not higher else -1


def _optimal(found: pd.DataFrame, table: pd.DataFrame) -> list[bool]:
    """Return which rows no other beats in both means, or in one at equality in the other."""
    gain = found["value"] * (1 if _higher_is_better(table) else -1)
    loss = found["forgetting_value"] * _worse(table)
    return optimal(np.stack([gain, loss], axis=1)).tolist()


def _bars(x: alt.X, y: alt.Y, data: pd.DataFrame, look: Look) -> list[alt.Chart]:
    """Return points with both intervals; the marker's area grows with the seconds."""
    apart = by_method(data, look)
    most = float(data["seconds"].max())
    # a marker of no seconds can still be seen; the legend says the shortest and the longest training
    known = sorted({float(f"{seconds:.2g}") for seconds in (data["seconds"].min(), most) if seconds > 0})
    scale = alt.Scale(domain=[0, most if most > 0 else 1], range=[14, look.width / 4])
    size = alt.Size("seconds:Q", scale=scale, legend=alt.Legend(title="seconds", values=known))
    bar = alt.Chart().mark_rule(style="interval", clip=True, aria=False)
    bar = bar.encode(y=y, x=of(x, "forgetting_low"), x2="forgetting_high", color=apart["color"])
    return [bar, *points(x, y, apart, size=size)]


def _untouched() -> alt.Chart:
    return alt.Chart(alt.InlineData(values=[{}])).mark_rule(style="reference", aria=False).encode(x=alt.XDatum(0))


def _steps(x: alt.X, y: alt.Y) -> alt.Chart:
    """Join the optimal points: from each, what forgets more and learns no more is beaten."""
    line = alt.Chart().transform_filter("datum.optimal").mark_line(style="front", interpolate="step-after", aria=False)
    return line.encode(x=x, y=y)


def _named(data: pd.DataFrame, x: alt.X, y: alt.Y, look: Look) -> pd.DataFrame:
    """Return the rows with the place of each one's rank, beside its point and on no other."""
    apart = data.groupby("method")["setting"].transform("nunique") > 1
    ranks = ["" if missing(rank) else str(int(rank)) for rank in data["rank"]]
    settings = data["setting"].where(apart, "")
    names = [f"{rank} {setting}".strip() for rank, setting in zip(ranks, settings, strict=True)]
    left, right = x["scale"]["domain"]
    bottom, top = y["scale"]["domain"]
    across, up = (right - left) / (look.width - 45), (top - bottom) / HEIGHT
    spots = [((row.forgetting_value - left) / across, (row.value - bottom) / up) for row in data.itertuples()]
    placed = place_labels(spots, names, marker=9.0)
    label = [name if spot else None for name, spot in zip(names, placed, strict=True)]
    rows = data.assign(label=label, label_x=[left + spot[0] * across if spot else None for spot in placed])
    return rows.assign(label_y=[bottom + spot[1] * up if spot else None for spot in placed])


def _labels(x: alt.X, y: alt.Y) -> alt.Chart:
    text = alt.Chart().transform_filter("isValid(datum.label)").mark_text(style="rank", aria=False)
    colour = alt.Color("method:N")
    return text.encode(x=of(x, "label_x"), y=of(y, "label_y"), text="label:N", color=colour)
