"""What the command line prints: both curves beside each other, with intervals, and what they are shares of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from analysis.interventions import Settings
from analysis.spectra.interventions.examine import Examination
from analysis.spectra.interventions.results import Row
from analysis.spectra.interventions.vectors import Scaling
from analysis.spectra.intruders.summary import wide_console


def summary(
    name: str,
    rows: Sequence[Row],
    curves: Mapping[str, Sequence[Scaling]],
    matrices: int,
    examination: Examination,
    settings: Settings,
) -> None:
    """Print a line for each curve and λ: the task's headline metric, then each probe's."""
    console = wide_console()
    console.print(_headline(name, curves, matrices, settings), markup=False)
    shown = [row for row in rows if row["headline"]]
    columns = list(dict.fromkeys((row["of"], row["metric"]) for row in shown))
    table = Table("curve", "λ", box=SIMPLE_HEAD)
    for of, metric in columns:
        table.add_column(metric if of == "task" else f"{of} {metric}", justify="right", no_wrap=True)
        table.add_column("change" if of == "task" else "of what was forgotten", justify="right", no_wrap=True)
    for place in dict.fromkeys((row["curve"], row["lambda"]) for row in shown):
        here = {(row["of"], row["metric"]): row for row in shown if (row["curve"], row["lambda"]) == place}
        cells = [cell for column in columns for cell in (_value(here[column]), _share(here[column]))]
        table.add_row(place[0], f"{place[1]:g}", *cells)
    console.print(table)
    for line in _remarks(shown, examination):
        console.print(line, markup=False)


def _headline(name: str, curves: Mapping[str, Sequence[Scaling]], matrices: int, settings: Settings) -> str:
    what = f"k = {settings.k}, eps = {settings.eps:g}, {settings.split}"
    if settings.mode == "mitigation":
        scalings = curves["intruders"]
        vectors = sum(len(scaling.indices) for scaling in scalings)
        return f"{name}: {vectors} intruders in {len(scalings)} of {matrices} matrices, scaled together ({what})"
    beside = len(curves.get("neighbour", ()))
    intruders = len(curves["intruder"])
    without = f"; {intruders - beside} have no neighbour that is none" if beside < intruders else ""
    controls = "three controls that remove as much"
    intruding = f"the top intruder of {intruders} of {matrices} matrices"
    return f"{name}: {intruding}, {controls} and a neighbour of {beside} ({what}){without}"


def _value(row: Row) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _share(row: Row) -> str:
    if row["lambda"] == 1:
        return ""
    if row["percent"] is None:
        return "undefined" if row["percent_of"] == "forgetting" else "-"
    if row["percent_low"] is None:
        return f"{row['percent']:+.0f} %"
    return f"{row['percent']:+.0f} % [{row['percent_low']:+.0f}, {row['percent_high']:+.0f}]"


def _remarks(shown: Sequence[Row], examination: Examination) -> list[str]:
    """Say what the shares are of, and why there are none where there are none."""
    lines = []
    for of in dict.fromkeys(row["of"] for row in shown if row["of"] != "task"):
        row = next(row for row in shown if row["of"] == of)
        if row["base"] is not None:
            told = f"{row['base']:.3f} untouched, {row['at_one']:.3f} tuned"
            lines.append(f"{of} {row['metric']}: {told}; what was forgotten is the difference, 100 % at λ = 1")
    reasons = {row["of"]: row["undefined"] for row in shown if row["undefined"] and row["lambda"] != 1}
    lines += [f"{of}: no share, {reason}" for of, reason in reasons.items()]
    lines += [f"{label}: n/a: {reason}" for label, (_, reason) in examination.probing.unfit.items()]
    if not examination.probing.fitted:
        lines.append("no probes: what was forgotten is not measured")
    return lines
