"""What the command line prints: both curves beside each other, with intervals, and what they are shares of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from analysis.interventions import LOWER, STOPPED, Settings
from analysis.spectra.interventions.equal_score import Left
from analysis.spectra.interventions.examine import Examination
from analysis.spectra.interventions.results import Row
from analysis.spectra.interventions.vectors import Scaling
from analysis.spectra.intruders.summary import wide_console

OTHER = {
    STOPPED: "λ is the share of the training steps, of kept checkpoints",
    LOWER: "λ is the share of the learning rate, of other runs",
}
"""What λ is of curves that scale nothing."""


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
        scalings = curves.get("intruders", ())
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
    lines += [f"{curve}: {means}" for curve, means in OTHER.items() if any(row["curve"] == curve for row in shown)]
    reasons = {row["of"]: row["undefined"] for row in shown if row["undefined"] and row["lambda"] != 1}
    lines += [f"{of}: no share, {reason}" for of, reason in reasons.items()]
    lines += [f"{label}: n/a: {reason}" for label, (_, reason) in examination.probing.unfit.items()]
    if not examination.probing.fitted:
        lines.append("no probes: what was forgotten is not measured")
    return lines


def equal_scores(left: Sequence[Left]) -> None:
    """Print what each mitigation leaves forgotten where it has cost the task as much, beside ΔW shrunk as a whole."""
    for (label, metric), rows in _by_metric(left).items():
        table = Table("score lost", "mitigation", box=SIMPLE_HEAD, title=f"{label} {metric}: forgotten at equal score")
        table.add_column("still forgotten", justify="right")
        table.add_column("less that of ΔW shrunk", justify="right", no_wrap=True)
        table.add_column("")
        for one in rows:
            ends = f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" if one.word else ""
            table.add_row(f"{one.cost:g}", one.curve, f"{one.left:.3f}", ends, one.word)
        wide_console().print(table)


def _by_metric(left: Sequence[Left]) -> dict[tuple[str, str], list[Left]]:
    found: dict[tuple[str, str], list[Left]] = {}
    for one in left:
        found.setdefault((one.label, one.metric), []).append(one)
    return found
