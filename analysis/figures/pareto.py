"""Learning against forgetting, marker size = duration (arXiv 2405.09673, figure 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from analysis.drawing.figure import FIGURES, PAGE, Figure
from analysis.drawing.marks import Handle, frame, handle, legend, names_beside, reference
from analysis.drawing.page import Page
from analysis.drawing.probes import forgetting_label, same_probe
from analysis.drawing.scores import effects_over_seeds
from analysis.drawing.series import SETTING
from analysis.drawing.style import GREY, Look, Mark, compact, missing
from analysis.effects.outcomes import FORGETTING, LEARNING
from analysis.effects.planes import optimal

ENDS = ["value", "low", "high"]


@FIGURES.register("pareto")
class Pareto(Figure):
    """Which methods learn more at the same forgetting; what lies on the grey steps is beaten by none in both means."""

    title = "Learning against forgetting; marker size: seconds of training"
    needs = "runs with a forgetting probe: python -m harness.run forgetting=default"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank and further setting, at the rate that its validation score chose."""
        table = same_probe(page.chosen)
        score, lost = (effects_over_seeds(page.effects, table, SETTING, one) for one in (LEARNING, FORGETTING))
        if score.empty:
            return score
        seconds = table.groupby(SETTING, dropna=False, sort=False)["train_seconds"].mean()
        lost = lost[[*SETTING, *ENDS]].rename(columns={end: f"forgetting_{end}" for end in ENDS})
        found = score.merge(lost, on=SETTING).assign(seconds=seconds.to_numpy())
        facts = {"metric": table["metric"].iloc[0], "probe": forgetting_label(table), "base": table["base"].mean()}
        return found.assign(**facts, worse=_worse(table), optimal=_optimal(found, table))

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a point a row; right is less forgotten, up is more learned."""
        axes = canvas.subplots()
        handles = []
        for method, rows in data.groupby("method", sort=False):
            mark = look.method(method)
            handles.append(handle(method, mark, line=False))
            for row in rows.to_dict("records"):
                _point(axes, row, mark, data["seconds"].max())
            names_beside(axes, rows, "forgetting_value", "value", mark)
        _steps(axes, data)
        reference(axes, data["base"].iloc[0], "untouched")
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        frame(axes, data, data["base"].iloc[0], share=True)
        frame(axes, data, 0, names=("forgetting_value", "forgetting_low", "forgetting_high"), axis="x")
        if data["worse"].iloc[0] > 0:
            axes.invert_xaxis()
        axes.set(
            xlabel=f"change of {data['probe'].iloc[0]}: the right forgets less", ylabel=f"test {data['metric'].iloc[0]}"
        )
        legend(canvas, [*handles, *(_sized(seconds, data["seconds"]) for seconds in _extremes(data["seconds"]))])

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches of both columns: there are many labels."""
        return PAGE, 4.4


def _worse(table: pd.DataFrame) -> int:
    """Return the sign of a change for the worse."""
    higher = table["forgetting_higher_is_better"].iloc[0]
    return 1 if pd.isna(higher) or not higher else -1


def _optimal(found: pd.DataFrame, table: pd.DataFrame) -> list[bool]:
    """Return which rows no other beats in both means, or in one at equality in the other."""
    higher = table["higher_is_better"].iloc[0]
    gain = found["value"] * (1 if pd.isna(higher) or higher else -1)
    loss = found["forgetting_value"] * _worse(table)
    return optimal(np.stack([gain, loss], axis=1)).tolist()


def _point(axes: Axes, row: dict[str, Any], mark: Mark, longest: float) -> None:
    """Draw a row with both intervals; the marker's area grows with the seconds."""
    reach = [
        [[max(0.0, row[name] - row[low])], [max(0.0, row[high] - row[name])]]
        for name, low, high in (("forgetting_value", "forgetting_low", "forgetting_high"), ("value", "low", "high"))
    ]
    x, y = row["forgetting_value"], row["value"]
    axes.errorbar(x, y, yerr=reach[1], xerr=reach[0], fmt="none", ecolor=mark.colour, elinewidth=0.6, alpha=0.6)
    area = 30.0 if missing(row["seconds"]) else _area(row["seconds"], longest)
    axes.scatter(x, y, s=area, color=mark.colour, marker=mark.marker, edgecolors="white", linewidths=0.4, zorder=3)


def _area(seconds: float, longest: float) -> float:
    """Return a marker's area in square points: 10 and, for the longest training, 70 more."""
    return 10 + 70 * seconds / longest if longest > 0 else 30.0


def _extremes(seconds: pd.Series[float]) -> list[float]:
    known = seconds.dropna()
    return sorted({float(known.min()), float(known.max())}) if len(known) else []


def _sized(seconds: float, among: pd.Series[float]) -> Handle:
    """Return a legend's entry that says how long a training a marker of this size is."""
    size = _area(seconds, float(among.max())) ** 0.5
    return f"{compact(float(f'{seconds:.2g}'))} s", Line2D(
        [], [], color=GREY, marker="o", linestyle="none", markersize=size
    )


def _steps(axes: Axes, data: pd.DataFrame) -> None:
    """Join the optimal points: from each, what forgets more and learns no more is beaten."""
    front = data[data["optimal"]].sort_values("forgetting_value", ascending=bool(data["worse"].iloc[0] > 0))
    axes.plot(front["forgetting_value"], front["value"], color=GREY, linewidth=0.8, drawstyle="steps-post", zorder=1)
