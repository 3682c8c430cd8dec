"""The result table at the end of a run or sweep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.errors import RecordError
from harness.storage.record import Status, read_record

SHOWN = ("method", "rank", "learning rate", "trainable", "score [95 %]", "base", "forgetting")
COLUMNS = (*SHOWN, "train s", "tokens/s", "peak GiB", "folder")

WIDTH = 10_000
Versions = dict[str, int]
"""Probe → version."""


def print_results(folders: list[Path]) -> None:
    """Print a row for each run folder: what it gained, what it cost, or why there is nothing to show."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("method", "folder") else "right", no_wrap=True)
    newest = probe_versions(folders)
    for folder in folders:
        table.add_row(*row(folder, newest))
    # Never folded into cells: a line that a narrow terminal wraps can still be read, searched and copied.
    console = Console(width=WIDTH, highlight=False, markup=False)
    console.print(table)
    for line in remarks(folders):
        console.print(line)


UNSEARCHED = (
    "one learning rate for each row: this ranks pairs of method and rate; search=learning_rate compares methods, "
    "each at its own"
)
"""Said of a table of several configurations none of which was searched for."""


def remarks(folders: list[Path]) -> Iterator[str]:
    """Yield what the rows' learning rates leave open: a search that ended at an edge, or none at all."""
    open_ends, configurations, searched = [], set(), True
    for folder in folders:
        with suppress(RecordError):
            record = read_record(folder)
            if record["status"] == Status.done:
                search = record.get("search")
                configurations.add((record["config"]["method"]["name"], record.get("rank")))
                searched = searched and search is not None
                if search and search["warning"]:
                    open_ends.append(f"{search['configuration']}: {search['why']}")
    yield from (f"warning: {line}" for line in dict.fromkeys(open_ends))
    if len(configurations) > 1 and not searched:
        yield UNSEARCHED


def probe_versions(folders: list[Path]) -> Versions:
    """Return the newest version of each probe in these records: numbers of two versions are never set side by side."""
    found: Versions = {}
    for folder in folders:
        with suppress(RecordError):
            for entry in _measured(read_record(folder)).values():
                found[entry["probe"]] = max(entry["version"], found.get(entry["probe"], 0))
    return found


def row(folder: Path, newest: Versions | None = None) -> list[str]:
    """Return one run's cells; `newest` has the probes' versions of the table."""
    try:
        record = read_record(folder)
    except RecordError as error:
        return _unfinished("?", "", "damaged" if (folder / "record.json").exists() else "no record", str(error))
    method = record["config"]["method"]
    name, rank = method["name"], "-" if record.get("rank") is None else str(record["rank"])
    rate = learning_rate(record)
    status = Status(record["status"])
    if status is not Status.done:
        label = "n/a" if status is Status.not_applicable else status.value
        reason = record.get("reason") or "cut off; the same command resumes it"
        return _unfinished(name, rank, label, f"{folder}: {reason}", rate)
    cells = [*_scores(record), forgetting(record, newest or {}), *_costs(record)]
    mixed = f" mixed: {', '.join(record['mixed'])}" if record.get("mixed") else ""
    return [name, rank, rate, _trainable(record), *cells, f"{folder}{mixed}"]


def learning_rate(record: dict[str, Any]) -> str:
    """Return a run's rate, and of how many it was chosen by a search: ``0.00316 of 4``."""
    rate, search = record["config"].get("train", {}).get("learning_rate"), record.get("search")
    if rate is None:
        return "-"
    tried = f" of {len(search['tried'])}{' (edge)' if search['warning'] else ''}" if search else ""
    return f"{rate:g}{tried}"


def _unfinished(name: str, rank: str, label: str, why: str, rate: str = "") -> list[str]:
    return [name, rank, rate, "", label, *[""] * (len(COLUMNS) - 6), why]


def _measured(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the probes of a record that have numbers; records of an earlier version have none."""
    entries: dict[str, dict[str, Any]] = record.get("forgetting") or {}
    return {label: entry for label, entry in entries.items() if entry["status"] == "measured"}


def forgetting(record: dict[str, Any], newest: Versions) -> str:
    """Return the change in the headline of the first probe that has one, such as ``loss +.031 [+.029, +.033]``."""
    for entry in _measured(record).values():
        headline = entry.get("headline")
        if headline in entry["metrics"]:
            if entry["version"] != newest.get(entry["probe"], entry["version"]):
                return f"{entry['probe']} version {entry['version']}"
            metric = entry["metrics"][headline]
            return f"{headline} {_change(metric['delta'] or metric['after'])}"
    return "-"


def _change(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "undefined"
    return f"{_signed(score['value'])} [{_signed(score['low'])}, {_signed(score['high'])}]"


def _signed(value: float | None) -> str:
    return "?" if value is None else f"{value:+.3f}".replace("0.", ".", 1)


def summary(record: dict[str, Any]) -> str:
    """Return how a run ended, in a line."""
    if record["status"] != Status.done.value:
        return f"{record['status']}: {record['reason']}"
    after, before = _scores(record)
    if record.get("purpose") == "search":
        after = f"at {record['config']['train']['learning_rate']:g} validation {after}"
    seconds = record["seconds"]
    evaluation = sum(seconds.get(phase, 0.0) for phase in ("evaluate_base", "evaluate"))
    probes = sum(seconds.get(phase, 0.0) for phase in ("forgetting_base", "forgetting"))
    measured = f", forgetting measured in {probes:.0f} s" if probes else ""
    return f"{after}, base {before}; trained in {seconds['train']:.0f} s, evaluated in {evaluation:.0f} s{measured}"


def _trainable(record: dict[str, Any]) -> str:
    parameters = record["parameters"]
    return f"{parameters['trainable']:,} ({100 * parameters['trainable'] / parameters['total']:.3g} %)"


def _scores(record: dict[str, Any]) -> list[str]:
    metric = record["metric"]
    split = "validation" if record.get("purpose") == "search" else "test"
    after, before = (record["scores"][phase][split][metric] for phase in ("after", "before"))
    return [f"{metric} {_interval(after)}", _interval(before)]


def _interval(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "undefined"
    return f"{_short(score['value'])} [{_short(score['low'])}, {_short(score['high'])}]"


def _short(value: float | None) -> str:
    """Write a share as .825 and anything larger with one decimal."""
    if value is None:
        return "?"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) <= 1 else f"{value:.1f}"


def _costs(record: dict[str, Any]) -> list[str]:
    memory = record["memory"]["train"]
    peak = memory.get("cuda_allocated_gib", memory["resident_gib"])
    return [f"{record['seconds']['train']:.0f}", f"{record['tokens_per_second']:,.0f}", f"{peak:.2f}"]
