"""What there is to add of a run: a few numbers by name, and tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.effects.blocks import Effects, effects_of
from analysis.effects.comparisons import PAIRS, compare
from analysis.effects.outcomes import FORGETTING, LEARNING
from analysis.records import intruder_tables

PREFIX = "analysis/"
"""Before the name of everything that comes from the analysis and not from training."""
FROM_TABLE = (
    *("intruders_excess", "intruders_p", "intruders", "intruders_k", "intruders_eps", "intruders_clustered"),
    *("intruders_v", "intruders_null", "intruders_null_low", "intruders_null_high"),
    *("intruders_null_rank", "intruders_null_dense", "intruders_floor"),
    "relative_change",
    "effective_rank",
    "mixed",
)
"""Columns of the tidy table that go to the summary where a run has them; training's own numbers are there already."""
VERDICT = f"{PREFIX}verdict"
FORGOTTEN = f"{PREFIX}verdict_forgetting"
VERDICTS = f"{PREFIX}verdicts"
SINGULAR_VALUES = 32
"""So many of each spectrum are sent: 210 matrices of a 30-layer decoder, W0, W and ΔW, make 20,160 rows; W&B takes
200,000."""

Cell = float | int | str | bool | None


@dataclass
class Findings:
    """What is added to one run."""

    summary: dict[str, Cell] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Return whether there is anything to add."""
        return bool(self.summary or self.tables)

    def digest(self) -> str:
        """Return a hash of all names and values: the same findings are sent once."""
        tables = {name: [[*table.columns], cells(table)] for name, table in self.tables.items()}
        text = json.dumps([self.summary, tables], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def findings(run: pd.Series[Any], verdicts: pd.DataFrame | None = None) -> Findings:
    """Return what the analysis found of a run, a row of the tidy table; `verdicts` are its comparisons."""
    found = Findings({PREFIX + name: _plain(run[name]) for name in FROM_TABLE if pd.notna(run[name])})
    found.tables = {PREFIX + name: table for name, table in _tables(Path(run["folder"])).items() if len(table)}
    if verdicts is not None and len(verdicts):
        for name, outcome in ((VERDICT, LEARNING), (FORGOTTEN, FORGETTING)):
            rows = verdicts[verdicts["outcome"] == outcome.key]
            if len(rows):
                found.summary[name] = summary(rows)
        found.tables[VERDICTS] = verdicts
    return found


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return counts over all matrices, matrices, and the beginning of each spectrum, where they were measured."""
    found = intruder_tables(folder)
    kept = {name: found[name] for name in ("matrices",) if name in found}
    if "counts" in found:
        kept["counts"] = found["counts"][found["counts"]["by"] == "all"]
    if "spectra" in found:
        kept["spectra"] = found["spectra"][found["spectra"]["index"] < SINGULAR_VALUES]
    return kept


def cells(table: pd.DataFrame) -> list[list[Cell]]:
    """Return a table's rows as plain Python values, missing ones as None."""
    return [[_plain(value) for value in row] for row in table.itertuples(index=False, name=None)]


def _plain(value: Any) -> Cell:
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value  # type: ignore[no-any-return]


KEPT = (
    "outcome",
    "first",
    "second",
    "metric",
    "difference",
    "low",
    "high",
    "p_family",
    "family",
    "margin",
    "result",
    "searched",
    "items",
    "ahead",
)


def verdicts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return run id → its configuration's comparisons with all others, in score and in forgetting, a row each.

    All comparisons of the table in one outcome are one family. A run at another rate than the chosen one, or with
    nothing beside it, has none.
    """
    found = effects_of(table)
    parts = [compare(found, outcome=one).table().assign(outcome=one.key) for one in (LEARNING, FORGETTING)]
    compared = pd.concat([part for part in parts if len(part)] or parts[:1])
    return {str(run): rows for run, rows in _of_each(found, compared) if len(rows)}


def _of_each(found: Effects, compared: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for block in found.blocks:
        here = compared[compared["where"] == block.where]
        for name, runs in block.configurations.items():
            named = here[(here["first"] == name) | (here["second"] == name)]
            for run in runs["id"]:
                yield run, named[[*KEPT, "verdict"]].assign(this=name).reset_index(drop=True)


def summary(rows: pd.DataFrame) -> str:
    """Return a run's comparisons in a line: ``better than 2, worse than 1, equivalent to 1, undecided against 2``.

    Where not every rate was searched for, it is the pair of method and rate that is ahead or behind.
    """
    won, shown = int((rows["ahead"] == rows["this"]).sum()), int(rows["ahead"].notna().sum())
    others = [int((rows["result"] == name).sum()) for name in ("equivalent", "undecided")]
    searched = bool(rows["searched"].all())
    words = ("better than", "worse than") if searched else ("ahead of", "behind")
    counts = dict(zip((*words, "equivalent to", "undecided against"), (won, shown - won, *others), strict=True))
    line = ", ".join(f"{said} {count}" for said, count in counts.items() if count)
    return line if searched else f"{line} ({PAIRS})"
