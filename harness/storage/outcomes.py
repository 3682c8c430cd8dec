"""Outcomes of items on disk: Parquet files with a row an outcome, in series by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.tasks.base import SPLITS, Outcome

Series = Mapping[str, Sequence[Outcome]]
"""Outcomes by the name of a split, or of what a probe measured."""
MEASURED = "metric."
"""Begins the columns of metrics that a task does not compute itself."""


def rows_of(series: Series, **more: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each outcome, with its series as ``split``."""
    for name, outcomes in series.items():
        for outcome in outcomes:
            row = asdict(outcome)
            measured = {f"{MEASURED}{metric}": value for metric, value in row.pop("measured").items()}
            yield {**more, "split": name, **row, **measured}


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as the bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    columns = dict.fromkeys(name for row in rows for name in row)  # probes' rows lack those of metrics
    pq.write_table(pa.Table.from_pylist([{**dict.fromkeys(columns), **row} for row in rows]), sink)
    return bytes(sink.getvalue().to_pybytes())


def write_series(path: Path, series: Series) -> None:
    """Write series of outcomes into a folder that is not in its place yet."""
    path.write_bytes(parquet(list(rows_of(series))))


def read_series(path: Path, phase: str | None = None) -> dict[str, list[Outcome]]:
    """Read series of outcomes back by name: of ``items.parquet`` those of `phase` that probes wrote."""
    import pyarrow.parquet as pq

    found: dict[str, list[Outcome]] = {}
    for row in pq.read_table(path).to_pylist():
        name = str(row.pop("split"))
        if phase is None or (row.pop("phase") == phase and name.startswith("forgetting/")):
            found.setdefault(name, []).append(_outcome(row))
    return found


def read_items(path: Path) -> dict[str, dict[str, list[Outcome]]]:
    """Read a run's ``items.parquet`` back into outcomes by phase and split."""
    import pyarrow.parquet as pq

    found: dict[str, dict[str, list[Outcome]]] = {}
    for row in pq.read_table(path).to_pylist():
        phase, split = row.pop("phase"), row.pop("split")
        found.setdefault(phase, {}).setdefault(split, []).append(_outcome(row))
    return {phase: {split: splits[split] for split in SPLITS if split in splits} for phase, splits in found.items()}


def _outcome(row: dict[str, Any]) -> Outcome:
    """Return a row's outcome; what an item shares with others is a fact of the task, and no part of it."""
    own = {name: value for name, value in row.items() if name != "cluster" and not name.startswith(MEASURED)}
    given = {name: value for name, value in row.items() if name.startswith(MEASURED) and value is not None}
    return Outcome(**own, measured={name.removeprefix(MEASURED): value for name, value in given.items()})
