"""What the page holds of each run besides its row: settings, history, samples, and how to make it again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from analysis import records
from analysis.records.columns import flat
from analysis.records.configurations import UNIT, configured
from analysis.records.searches import searches as found_searches
from analysis.records.searches import tried
from analysis.views.report.reproduce import Reproducer, Reproduction
from harness.errors import HarnessError
from harness.storage.record import Status

POINTS = 20_000
"""Of all histories together: 500 runs of 40 points are 0.8 MB of the page, and lines look the same with more."""
LONGEST = 2_000
"""Characters of a sample's text; longer ones are cut, and the page says by how much."""
DETAILS = ("machine", "runtime", "hashes", "data", "attempts", "restarts", "interruptions", "memory", "parameters")
"""What a record holds that the tidy table leaves out or shortens."""
CURVES = ("step", "tokens", "loss", "grad_norm", "learning_rate")


def settings(table: pd.DataFrame, found: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Return what was set and where it ran: what all runs share once, what differs by run."""
    names = [key for key in table.columns if key.startswith(("config.", "version.", "foreign."))]
    rows = table[[*names, "commit", "dirty", "started"]].astype(object).where(table.notna(), None).to_dict("records")
    more = [_details(record) if record else {} for record in found]
    return shared([row | extra for row, extra in zip(rows, more, strict=True)])


def _details(record: dict[str, Any]) -> dict[str, Any]:
    kept = {key: record[key] for key in DETAILS if key in record}
    if isinstance(kept.get("attempts"), list):  # since schema 2 each with its versions, of which the row has the last
        kept["attempts"] = len(kept["attempts"])
    return dict(flat(kept))


def shared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Split rows into ``common`` (key → value, where two runs or more agree) and ``differing`` (key → values)."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    values = {key: [plain(row.get(key)) for row in rows] for key in keys}
    common = {key: some[0] for key, some in values.items() if len(rows) > 1 and all(x == some[0] for x in some)}
    differing = {key: some for key, some in values.items() if key not in common}
    return {"common": {key: value for key, value in common.items() if value is not None}, "differing": differing}


def plain(value: Any) -> Any:
    """Return a cell as JSON can hold it: missing and not finite as None, numpy's numbers as Python's."""
    if value is None or value is pd.NA:
        return None
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def records_of(table: pd.DataFrame) -> list[dict[str, Any] | None]:
    """Return each row's record, None for imported rows, which have none."""
    return [None if foreign is True else _record(folder) for folder, foreign in _places(table)]


def _places(table: pd.DataFrame) -> Iterable[tuple[str, Any]]:
    return zip(table["folder"], (plain(value) for value in table["foreign"]), strict=True)


def _record(folder: str) -> dict[str, Any] | None:
    try:
        return records.record(folder)
    except HarnessError:  # it was readable a moment ago: a run that is being written
        return None


def commands(found: list[dict[str, Any] | None]) -> list[Reproduction]:
    """Return how to train each run again."""
    with Reproducer() as reproduce:
        return [reproduce(record) if record else Reproduction("", "it was not made here") for record in found]


def histories(table: pd.DataFrame) -> list[dict[str, list[float | None]] | None]:
    """Return each run's curves, thinned evenly so that all of them together have at most :data:`POINTS` points."""
    most = max(2, POINTS // max(1, len(table)))
    return [_curves(folder, most) for folder, _ in _places(table)]


def _curves(folder: str, most: int) -> dict[str, list[float | None]] | None:
    history = records.history(folder)
    names = [name for name in CURVES if name in history]
    if "step" not in names:
        return None
    rows = history.dropna(subset=["step"])
    rows = rows.iloc[_even(len(rows), most)]
    return {name: [_short(value) for value in rows[name]] for name in names}


def _even(count: int, most: int) -> list[int]:
    """Return at most `most` positions out of `count`, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(at * (count - 1) / (most - 1)) for at in range(most)})


def _short(value: Any) -> float | None:
    """Return five digits of a number: more than a screen can show."""
    number = plain(value)
    return None if number is None else float(f"{number:.5g}")


def searches(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each configuration's search for its learning rate: what it tried, and the rows at the rate it chose."""
    done = configured(table[table["status"] == Status.done.value])
    several = len(done[["model", "task"]].drop_duplicates()) > 1
    found = []
    for runs, search in found_searches(done):
        first, rows = runs.iloc[0], tried(search)
        whole = {key: search[key] for key in ("metric", "seed", "max_runs", "why", "warning")}
        entries = rows[["learning_rate", "value", "low", "high", "items", "reason", "chosen"]].astype(object)
        found.append(
            {"name": first[UNIT], "where": f"{first['model']} on {first['task']}" if several else ""}
            | {"rows": [int(row) for row in runs.index], **whole}
            | {"tried": [{key: plain(value) for key, value in one.items()} for one in entries.to_dict("records")]}
        )
    return found


def samples(table: pd.DataFrame) -> list[list[dict[str, str]]]:
    """Return each run's samples: input, the base's answer, the tuned answer and the reference, as text."""
    return [[_sample(entry) for entry in records.samples(folder)] for folder, _ in _places(table)]


def _sample(entry: dict[str, Any]) -> dict[str, str]:
    return {key: _cut(entry.get(key)) for key in ("input", "base", "tuned", "reference")}


def _cut(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} characters more)"
