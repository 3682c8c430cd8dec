"""What figures read beside the tidy table: histories and intruder tables, each row with its run's setting."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import pandas as pd

from analysis.drawing.series import SETTING
from analysis.errors import AnalysisError
from analysis.records import history, intruder_tables

log = logging.getLogger(__name__)

CARRIED = ["id", "seed", *SETTING]
BINS = 30
"""Steps are averaged into at most so many bins: more than a panel two inches wide can show."""


def histories(table: pd.DataFrame, column: str | Callable[[dict[str, Any]], str]) -> pd.DataFrame:
    """Return step, tokens and ``value`` of each line of the runs' histories that has the column."""
    found = []
    for run in table.to_dict("records"):
        lines, name = history(run["folder"]), column if isinstance(column, str) else column(run)
        if not lines.empty and name in lines:
            lines = lines[lines[name].notna()]
            values = {"step": lines["step"], "tokens": lines["tokens"], "value": lines[name].astype("float64")}
            found.append(pd.DataFrame(values).assign(**{name: run[name] for name in CARRIED}))
    return _joined(found, ["step", "tokens", "value", *CARRIED])


def binned(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each run's values over bins of steps, all bins of one width; ``step`` is a bin's middle."""
    width = max(1.0, float(rows["step"].max()) / BINS)
    middle = ((rows["step"] - 1) // width + 0.5) * width + 0.5
    groups = rows.assign(step=middle).groupby([*CARRIED, "step"], dropna=False, sort=False)
    return groups[["tokens", "value"]].mean().reset_index()


def tables(table: pd.DataFrame, name: str, keep: Callable[[pd.DataFrame], pd.Series[bool]]) -> pd.DataFrame:
    """Return the rows to keep of every run's intruder table of this name."""
    found = []
    for run in table.to_dict("records"):
        rows = _table(run["folder"], name)
        if rows is not None and not rows.empty:
            rows = rows[keep(rows)].drop(columns="run", errors="ignore")
            found.append(rows.assign(**{key: run[key] for key in CARRIED}))
    return _joined(found, CARRIED)


def _table(folder: str, name: str) -> pd.DataFrame | None:
    """Return a run's table; a damaged one is said once, and the other runs are still drawn."""
    try:
        return intruder_tables(folder, name).get(name)
    except AnalysisError as error:
        _say_once(str(error))
        return None


@cache
def _say_once(line: str) -> None:
    log.warning("left out: %s", line)


def _joined(found: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    found = [rows for rows in found if not rows.empty]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def at_end(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows are of the end of training, whose step is missing, against the untouched weights."""
    return rows["step"].isna() & (rows["reference"] == "w0")


def learned(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows are of what training changed: over a quantised base that is the change against this base.

    Against the weights before quantising it would hold the rounding too, which has full rank.
    """
    quantised = bool((rows["reference"] == "dequantised").any())
    return rows["step"].isna() & (rows["reference"] == ("dequantised" if quantised else "w0"))


def finetuned(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows are of fine-tuning itself and of no null control."""
    return rows["control"] == "none"
