"""What the command line prints: how far the count exceeds its null controls, or why there is none."""

from __future__ import annotations

from statistics import mean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from analysis.intruders import Settings
from analysis.spectra.intruders.analyse import Row, Rows
from analysis.spectra.intruders.controls import MAIN

CONTROLS = {
    "none": "fine-tuning",
    "spectrum": "random, same spectrum",
    "low_rank": "random, equal norm and rank",
    "dense": "random, equal norm",
    "quantisation": "quantising alone",
}
WAYS = {
    "intruders_u": "left",
    "intruders_u_clustered": "clusters",
    "intruders_v": "right",
    "intruders_v_clustered": "clusters",
}
REFERENCES = {"w0": "W0", "dequantised": "quantised W0"}


def summary(name: str, rows: Rows, entries: list[Row], settings: Settings, unchanged: int) -> None:
    """Print the entries of a run's headline: left vectors (the paper's), right ones, and both cluster-aware.

    Of several optimiser steps each is a line of one table; the last is shown in full.
    """
    console = wide_console()
    steps = sorted({entry["step"] for entry in entries}, key=lambda step: (step is None, step or 0))
    if len(steps) > 1:
        console.print(f"{name}: intruder dimensions along training")
        console.print(_steps(entries))
    for step in steps[-1:]:
        last = [entry for entry in entries if entry["step"] == step]
        console.print(_headline(name, last[0], last, settings))
        console.print(_table(last))
    if not entries:
        console.print(f"{name}: no matrix was changed")
    _print_changes(console, rows, unchanged)


def wide_console() -> Console:
    """Return where tables are printed; off a terminal rich would wrap their cells at 80 columns."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200
    return console


def _headline(name: str, total: Row, entries: list[Row], settings: Settings) -> str:
    what = f"k = {settings.k}, eps = {settings.eps:g}, {settings.algorithm}, against {REFERENCES[total['reference']]}"
    count = f"{total['intruders_u']} intruder dimensions of {total['vectors']} in {total['matrices']} matrices"
    beside = next((one for one in entries if (one["control"], one["reference"]) == (MAIN, total["reference"])), None)
    if beside is None:
        return f"{name}: {count}, beside no control ({what})"
    excess = f"{total['intruders_u_excess']:+g} (p = {total['intruders_u_p']:.2g})"
    null = f"random changes of its spectrum, {_cell(beside, 'intruders_u')}"
    return f"{name}: {excess} beyond {null}: {count} ({what})"


def _steps(entries: list[Row]) -> Table:
    """Return a line for each step and reference: the counts, those of the random changes, and the change's size."""
    controls = [name for name in CONTROLS if name != "none" and any(entry["control"] == name for entry in entries)]
    table = _right_aligned("step", "against", *WAYS.values(), *(CONTROLS[name] for name in controls), "‖ΔW‖/‖W0‖")
    found = {(entry["step"], entry["reference"], entry["control"]): entry for entry in entries}
    for step, reference in dict.fromkeys((entry["step"], entry["reference"]) for entry in entries):
        tuned = found[step, reference, "none"]
        beside = [found.get((step, reference, name)) for name in controls]
        cells = [_cell(tuned, name) for name in WAYS] + [_cell(one, "intruders_u") for one in beside]
        at = "end" if step is None else str(step)
        table.add_row(at, REFERENCES[reference], *cells, f"{tuned['relative_change']:.4f}")
    return table


def _right_aligned(*columns: str) -> Table:
    """Return a table of which all columns but the first two hold numbers."""
    table = Table(*columns, box=SIMPLE_HEAD)
    for column in table.columns[2:]:
        column.justify = "right"
    return table


def _table(entries: list[Row]) -> Table:
    table = _right_aligned("change", "against", *WAYS.values(), "of")
    for entry in entries:
        cells = [_cell(entry, name) for name in WAYS]
        table.add_row(CONTROLS[entry["control"]], REFERENCES[entry["reference"]], *cells, str(entry["vectors"]))
    return table


def _cell(entry: Row | None, name: str) -> str:
    """Return a count; of random draws their median with the 5 % and 95 % quantiles."""
    if entry is None:
        return "-"
    low, high = (entry.get(f"{name}_{end}") for end in ("low", "high"))
    return f"{entry[name]:g}" + ("" if low is None else f" [{low:g}, {high:g}]")


def _print_changes(console: Console, rows: Rows, unchanged: int) -> None:
    end = {key: rows.matrices[-1][key] for key in ("step", "reference")} if rows.matrices else {}
    last = [row for row in rows.matrices if end.items() <= row.items()]
    ranks = [row["change_effective_rank"] for row in last if row["change_effective_rank"] is not None]
    parts = [f"mean ‖ΔW‖/‖W0‖ {mean(row['relative_norm'] for row in last):.4f}"] if last else []
    parts += [f"mean effective rank of ΔW {mean(ranks):.1f}"] if ranks else []
    parts += [f"{unchanged} matrices have no adapter"] if unchanged else []
    close = sum((row["decided_u"] == "double") + (row["decided_v"] == "double") for row in rows.vectors)
    parts += [f"{close} vectors decided in double precision"] if close else []
    if parts:
        console.print("; ".join(parts))
