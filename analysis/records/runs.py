"""Many run folders → one table, a row a run, and a line for each that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.errors import AnalysisError
from analysis.exchange import peft_suite
from analysis.records.columns import ROW, Row, row
from analysis.records.intruders import intruder_columns
from harness.errors import HarnessError, RecordError
from harness.storage.privacy import expanded
from harness.storage.record import ONLY_SEARCHES, Status, of_search, read_record

WHY = {Status.running: "another process trains it, or it was cut off; the same command resumes it"}
TRACES = ("history.jsonl", "items.parquet")
"""What a run leaves besides its record; a folder that has these alone is without it."""


@dataclass(frozen=True)
class Runs:
    """Runs of one or more folders."""

    table: pd.DataFrame
    """A row a run, of any status; columns as in :data:`analysis.records.ROW`."""
    problems: tuple[str, ...] = ()
    """One line for each folder that could not be read."""
    searches: int = 0
    """How many runs were left out because they only tried a learning rate: what they found stands in the results'
    records, :func:`analysis.records.searches.searches`."""

    def done(self) -> pd.DataFrame:
        """Return the rows of the finished runs."""
        return self.table[self.table["status"] == Status.done.value].reset_index(drop=True)


def read_runs(*paths: str | Path) -> Runs:
    """Return every result among `paths`: run folders, or folders that hold some at any depth.

    A run of a search is none: no table, mean or figure may take it for one. Raises :class:`AnalysisError` in one line
    where there is nothing else.
    """
    found: dict[str, Row | None] = {}
    problems: list[str] = []
    for folder in _folders(paths):
        try:
            found[os.path.realpath(folder)] = _row(folder, problems)
        except HarnessError as error:
            problems.append(str(error))
    rows = [cells for cells in found.values() if cells is not None]
    if not rows:
        raise AnalysisError(_nothing(paths, problems, len(found)))
    return Runs(table(rows), tuple(problems), len(found) - len(rows))


def table(rows: list[Row]) -> pd.DataFrame:
    """Return rows as the tidy table: the columns of :data:`ROW` first, each of one type, missing cells as NA."""
    order = ("seconds", "probe", "version", "config", "foreign")
    more = dict.fromkeys(name for cells in rows for name in cells if name not in ROW)
    later = sorted(more, key=lambda name: order.index(name.partition(".")[0]))
    return pd.DataFrame({name: _column(name, [cells.get(name) for cells in rows]) for name in [*ROW, *later]})


def _folders(paths: tuple[str | Path, ...]) -> Iterator[Path]:
    for path in map(Path, paths):
        if not expanded(path).is_dir():
            raise AnalysisError(f"{path}: there is no such folder")
        yield from _below(expanded(path))


def _below(top: Path) -> Iterator[Path]:
    """Yield run folders under `top` in order; hidden folders, such as the base's answers, hold none."""
    for name, folders, files in os.walk(top):
        if {"record.json", peft_suite.FILE, *TRACES} & set(files):
            folders.clear()
            yield Path(name)
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))


def _row(folder: Path, problems: list[str]) -> Row | None:
    """Return a folder's row, None for a run of a search.

    Tables beside the record that are damaged are a problem, and the rest of the row stays.
    """
    if (folder / peft_suite.FILE).exists():
        return peft_suite.row(folder)
    record = read_record(folder)
    if of_search(record):
        return None
    cells = row(record, folder)
    if cells["status"] == Status.done.value and cells["test_items"] is None:
        raise RecordError(f"{folder}/record.json: damaged, it is done but has no scores")
    if cells["reason"] is None:
        cells["reason"] = WHY.get(Status(cells["status"]))
    try:
        return cells | intruder_columns(folder)
    except HarnessError as error:
        problems.append(str(error))
        return cells


def _nothing(paths: tuple[str | Path, ...], problems: list[str], searches: int) -> str:
    where = ", ".join(map(str, paths)) or "no folder given"
    if searches:
        return f"{where}: holds {ONLY_SEARCHES} ({searches}), no result; the same training command goes on to them"
    if not problems:
        return f"{where}: holds no run: there is no record.json in it or below"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: no run can be read: {problems[0]}{more}"


def _column(name: str, values: list[Any]) -> pd.Series[Any]:
    """Return a column of one type: what its name says, or what all of its values are; text where they differ."""
    kind = ROW.get(name) or _kind(name, {type(value) for value in values if value is not None})
    if kind == "text":
        return pd.Series([None if value is None else str(value) for value in values], dtype="str")
    return pd.Series(values, dtype={"whole": "Int64", "number": "float64", "flag": "boolean"}[kind])


def _kind(name: str, types: set[type]) -> str:
    if types == {bool}:
        return "flag"
    if types <= {int, float} and name.startswith(("seconds.", "probe.")):
        return "number"
    if types == {int}:
        return "whole"
    return "number" if types and types <= {int, float} else "text"
