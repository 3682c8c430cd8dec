"""What the command line prints: the count beside the null controls, or why there is none."""

from __future__ import annotations

from statistics import mean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from analysis.intruders.analyse import Row, Rows
from analysis.intruders.settings import Settings

CONTROLS = {
    "none": "fine-tuning",
    "dense": "random, equal norm",
    "low_rank": "random, equal rank",
    "quantisation": "quantising alone",
}
REFERENCES = {"w0": "W0", "dequantised": "quantised W0"}


def summary(name: str, rows: Rows, counts: list[Row], settings: Settings, unchanged: int) -> None:
    """Print a run's counts at the chosen k and ε: left vectors (the paper's), right ones, and both cluster-aware.

    Of several optimiser steps each is a line of one table; the last is shown in full.
    """
    console = wide_console()
    chosen = [row for row in counts if row["by"] == "all" and row["k"] == settings.k and row["eps"] == settings.eps]
    steps = sorted({row["step"] for row in chosen}, key=lambda step: (step is None, step or 0))
    if len(steps) > 1:
        console.print(f"{name}: intruder dimensions along training")
        console.print(_steps(rows, chosen))
    for step in steps[-1:]:
        total = next((row for row in chosen if row["step"] == step and _is(row, "none", "u", False)), None)
        if total is not None:
            console.print(_headline(name, total, settings))
        console.print(_table([row for row in chosen if row["step"] == step]))
    if not chosen:
        console.print(f"{name}: no matrix was changed")
    _print_changes(console, rows, unchanged)


def wide_console() -> Console:
    """Return where tables are printed; off a terminal rich would wrap their cells at 80 columns."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200
    return console


def _is(row: Row, control: str, side: str, clustered: bool) -> bool:
    return row["control"] == control and row["side"] == side and row["clustered"] == clustered


def _headline(name: str, total: Row, settings: Settings) -> str:
    what = f"k = {settings.k}, eps = {settings.eps:g}, {settings.algorithm}, against {REFERENCES[total['reference']]}"
    count = f"{total['intruders']} intruder dimensions of {total['vectors']} in {total['matrices']} matrices"
    return f"{name}: {count} ({what})"


def _steps(rows: Rows, chosen: list[Row]) -> Table:
    """Return a line for each step and reference: the counts, those of the random changes, and the change's size."""
    controls = [name for name in CONTROLS if name != "none" and any(row["control"] == name for row in chosen)]
    names = ["left", "clusters", "right", "clusters", *(CONTROLS[name] for name in controls), "‖ΔW‖/‖W0‖"]
    table = _right_aligned("step", "against", *names)
    found = {
        (row["step"], row["reference"], row["control"], row["side"], row["clustered"]): _cell(row) for row in chosen
    }
    for step, reference in dict.fromkeys((row["step"], row["reference"]) for row in chosen):
        sides = [found.get((step, reference, "none", side, c), "-") for side in ("u", "v") for c in (False, True)]
        random = [found.get((step, reference, name, "u", False), "-") for name in controls]
        sizes = [row["relative_norm"] for row in rows.matrices if (row["step"], row["reference"]) == (step, reference)]
        at = "end" if step is None else str(step)
        table.add_row(at, REFERENCES[reference], *sides, *random, f"{mean(sizes):.4f}")
    return table


def _right_aligned(*columns: str) -> Table:
    """Return a table of which all columns but the first two hold numbers."""
    table = Table(*columns, box=SIMPLE_HEAD)
    for column in table.columns[2:]:
        column.justify = "right"
    return table


def _table(rows: list[Row]) -> Table:
    table = _right_aligned("change", "against", "left", "clusters", "right", "clusters", "of")
    found = {(row["reference"], row["control"], row["side"], row["clustered"]): row for row in rows}
    for reference, control in dict.fromkeys((row["reference"], row["control"]) for row in rows):
        cells = [found[reference, control, side, clustered] for side in ("u", "v") for clustered in (False, True)]
        table.add_row(CONTROLS[control], REFERENCES[reference], *map(_cell, cells), str(cells[0]["vectors"]))
    return table


def _cell(row: Row) -> str:
    """Return a count; where bounds leave vectors open, the least and the most it can be."""
    if not row["undecided"]:
        return str(row["intruders"])
    return f"{row['intruders']}-{row['intruders'] + row['undecided']}"


def _print_changes(console: Console, rows: Rows, unchanged: int) -> None:
    end = {key: rows.matrices[-1][key] for key in ("step", "reference")} if rows.matrices else {}
    last = [row for row in rows.matrices if end.items() <= row.items()]
    ranks = [row["change_effective_rank"] for row in last if row["change_effective_rank"] is not None]
    parts = [f"mean ‖ΔW‖/‖W0‖ {mean(row['relative_norm'] for row in last):.4f}"] if last else []
    parts += [f"mean effective rank of ΔW {mean(ranks):.1f}"] if ranks else []
    parts += [f"{unchanged} matrices have no adapter"] if unchanged else []
    fallbacks = sum((row["decided_u"] == "fallback") + (row["decided_v"] == "fallback") for row in rows.vectors)
    parts += [f"{fallbacks} vectors decided by the exact decomposition"] if fallbacks else []
    if parts:
        console.print("; ".join(parts))
