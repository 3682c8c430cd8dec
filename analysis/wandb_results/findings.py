"""What there is to add of a run: a few numbers by name, and tables."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.effects.outcomes import FORGETTING, LEARNING
from analysis.records import intruder_tables
from analysis.wandb_results.verdicts import summary

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
