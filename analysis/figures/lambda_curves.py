"""Task and forgetting when intruders are scaled by λ, with a control (arXiv 2410.21228, figures 8, 12 and 13)."""

from __future__ import annotations

from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.drawing.figure import FIGURES, PAGE, Figure
from analysis.drawing.marks import curve, frame, handle, legend, reference
from analysis.drawing.page import Page
from analysis.drawing.series import named
from analysis.drawing.sources import CARRIED, tables
from analysis.drawing.style import COLOURS, LINES, MARKERS, Look, Mark, shorten

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
        rows = tables(page.every_rate, "lambda", lambda rows: rows["headline"].fillna(False).astype(bool))
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

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a row of panels a run: the task, then each probe."""
        runs = list(dict.fromkeys(zip(data["name"], data["seed"], data["mode"], strict=True)))
        measures = list(dict.fromkeys(zip(data["of"], data["metric"], strict=True)))
        grid = canvas.subplots(len(runs), len(measures), sharex=True, squeeze=False)
        curves = dict.fromkeys(data["curve"])
        looks = cycle(zip(COLOURS, MARKERS, LINES, strict=False))
        marks = {name: Mark(*next(looks)) for name in curves}
        for line, (name, seed, mode) in zip(grid, runs, strict=True):
            here = data[(data["name"] == name) & (data["seed"] == seed) & (data["mode"] == mode)]
            for axes, (of, metric) in zip(line, measures, strict=True):
                _panel(axes, here[(here["of"] == of) & (here["metric"] == metric)], marks)
                axes.set_title(shorten(f"{of} {metric}", 30))
            line[0].set_title(f"{shorten(name, 20)}, {mode}: {line[0].get_title()}")
        for axes in grid[-1]:
            axes.set_xlabel("λ")
        legend(canvas, [handle(name, mark) for name, mark in marks.items()])

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for a row of panels a run."""
        return PAGE, 1.1 + 1.9 * len(data[["name", "seed", "mode"]].drop_duplicates())


def _panel(axes: Axes, rows: pd.DataFrame, marks: dict[str, Mark]) -> None:
    for name, own in rows.groupby("curve", sort=False):
        curve(axes, own, "lambda", marks[name], markersize=3)
    reference(axes, 0)
    if len(rows):
        frame(axes, rows, 0)
        of = "the score" if rows["of"].iloc[0] == "task" else "what was forgotten"
        axes.set_ylabel(f"{UNITS[rows['unit'].iloc[0]]} of {of}")
