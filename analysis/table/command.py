"""The command from folders to tables and verdicts."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from analysis.compare import FORGETTING, UNSEARCHED, Comparisons, compare
from analysis.fairness import fair
from analysis.pareto import pareto
from analysis.records import read_runs
from analysis.table import filtering
from analysis.table.grouped import DEFAULT, grouped, with_choice
from analysis.table.settings import Settings
from analysis.table.writing import show, shown, shown_comparisons, shown_pareto, write
from harness.storage.files import require_writable, write_bytes
from harness.storage.privacy import expanded
from harness.storage.record import Status


def run(settings: Settings) -> None:
    """Read, filter, group, compare; print and write each."""
    runs = read_runs(*settings.runs)
    table = filtering.chosen(runs.table, settings.where)
    keys = filtering.columns(settings.group, table) or list(DEFAULT)
    out = expanded(settings.out)
    require_writable(out, 2**20)
    picked = fair(table)
    problems = [*runs.problems, *print_table(table, picked.chosen, keys, settings, out)]
    if settings.compare:
        problems += print_comparisons(compare(picked.chosen, settings.against, settings.margin), out)
        problems += print_forgetting(compare(picked.chosen, settings.against, settings.margin, FORGETTING), out)
    if settings.pareto:
        problems += print_pareto(table, settings.learning, out)
    write(out, "runs", table)
    unfair = picked.warnings if settings.compare or settings.rates == "chosen" else ()
    notes = [*(f"not fair: {line}" for line in unfair), *(f"problem: {line}" for line in dict.fromkeys(problems))]
    write_bytes(out / "notes.txt", "".join(f"{line}\n" for line in notes).encode())
    print("\n".join(["", *notes, f"tables: {out}"]))


def print_table(
    table: pd.DataFrame, chosen: pd.DataFrame, keys: list[str], settings: Settings, out: Path
) -> tuple[str, ...]:
    """Print and write the rows over seeds; return what could not be used."""
    if settings.rates == "chosen":
        without = table[(table["status"] != Status.done.value) & ~table["foreign"]]
        table = pd.concat([chosen, without, table[table["foreign"]]])
    rows, problems = grouped(table, keys)
    if settings.rates == "chosen":
        rows = with_choice(rows, chosen)
    text = shown(rows, keys)
    show(text)
    write(out, "table", rows, text)
    return problems


def print_comparisons(found: Comparisons, out: Path) -> tuple[str, ...]:
    """Print and write the verdicts; return what could not be used."""
    print()
    for one in found.found:
        print(f"{one.where}: {one.verdict}" if one.where else one.verdict)
    if found.unsearched:
        print(UNSEARCHED)
    if not found.found:
        print("nothing to compare: it takes two configurations of one model and task that are done")
    write(out, "comparisons", found.table(), shown_comparisons(found))
    return found.problems


def print_forgetting(found: Comparisons, out: Path) -> tuple[str, ...]:
    """Print and write who forgets less, where a probe's items say; return what could not be used."""
    if found.found:
        print("\nforgetting, the change of a probe since before tuning:")
        print("\n".join(f"{one.where}: {one.verdict}" if one.where else one.verdict for one in found.found))
        write(out, "comparisons_forgetting", found.table(), shown_comparisons(found))
    return found.problems


def print_pareto(table: pd.DataFrame, learning: float | None, out: Path) -> tuple[str, ...]:
    """Print and write the Pareto-optimal configurations and forgetting at equal learning; return what is missing."""
    found = pareto(table, learning)
    print()
    if found.rows.empty:
        print("nothing to weigh: no run that is done has both a score and forgetting measured")
        return found.problems
    show(shown_pareto(found.rows))
    print()
    for one in found.equal.itertuples():
        sizes = f"{one.first_forgetting:+.3f} against {one.second_forgetting:+.3f}, difference {one.difference:+.3f}"
        said = f"; {sizes} [{one.low:+.3f}, {one.high:+.3f}]" if math.isfinite(one.low) else ""
        print(f"{one.first}, {one.second}: {one.verdict}{said}")
    write(out, "pareto", found.rows, shown_pareto(found.rows))
    write(out, "equal_learning", found.equal)
    return found.problems
