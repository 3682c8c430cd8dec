"""The result table at the end of a run or sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.errors import RecordError
from harness.record import Status, read_record

COLUMNS = ("method", "rank", "trainable", "score [95 %]", "base", "train s", "tokens/s", "peak GiB", "folder")

WIDTH = 10_000


def print_results(folders: list[Path]) -> None:
    """Print a row for each run folder: what it gained, what it cost, or why there is nothing to show."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("method", "folder") else "right", no_wrap=True)
    for folder in folders:
        table.add_row(*row(folder))
    # Never folded into cells: a line that a narrow terminal wraps can still be read, searched and copied.
    Console(width=WIDTH, highlight=False, markup=False).print(table)


def row(folder: Path) -> list[str]:
    """Return one run's cells."""
    try:
        record = read_record(folder)
    except RecordError as error:
        return [
            "?",
            "",
            "",
            "damaged" if (folder / "record.json").exists() else "no record",
            "",
            "",
            "",
            "",
            str(error),
        ]
    method = record["config"]["method"]
    name, rank = method["name"], "-" if record.get("rank") is None else str(record["rank"])
    status = Status(record["status"])
    if status is not Status.done:
        label = "n/a" if status is Status.not_applicable else status.value
        return [
            name,
            rank,
            "",
            label,
            "",
            "",
            "",
            "",
            f"{folder}: {record.get('reason') or 'cut off; the same command resumes it'}",
        ]
    return [name, rank, _trainable(record), *_scores(record), *_costs(record), str(folder)]


def summary(record: dict[str, Any]) -> str:
    """Return how a run ended, in a line."""
    if record["status"] != Status.done.value:
        return f"{record['status']}: {record['reason']}"
    after, before = _scores(record)
    seconds = record["seconds"]
    evaluation = sum(seconds.get(phase, 0.0) for phase in ("evaluate_base", "evaluate"))
    return f"{after}, base {before}; trained in {seconds['train']:.0f} s, evaluated in {evaluation:.0f} s"


def _trainable(record: dict[str, Any]) -> str:
    parameters = record["parameters"]
    return f"{parameters['trainable']:,} ({100 * parameters['trainable'] / parameters['total']:.3g} %)"


def _scores(record: dict[str, Any]) -> list[str]:
    metric = record["metric"]
    after, before = (record["scores"][phase]["test"][metric] for phase in ("after", "before"))
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
