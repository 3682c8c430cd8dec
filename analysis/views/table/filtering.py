"""Which runs, and which columns, a command line names: any column of the tidy table, any configuration key."""

from __future__ import annotations

import difflib

import pandas as pd

from analysis.errors import AnalysisError
from analysis.records.configurations import UNIT, configured
from harness.errors import ConfigError


def column(name: str, table: pd.DataFrame, key: str) -> str:
    """Return the column that a user's name means; raise :class:`ConfigError` with the nearest one."""
    if name in table.columns:
        return name
    if f"config.{name}" in table.columns:
        return f"config.{name}"
    known = [column.removeprefix("config.") for column in table.columns]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "columns are those of runs.csv"
    raise ConfigError(key, name, f"no such column or configuration key; {hint}")


def columns(names: tuple[str, ...], table: pd.DataFrame) -> list[str]:
    """Return the columns that ``group=`` names."""
    return [column(name, configured(table.head(1)) if name == UNIT else table, "group") for name in names]


def chosen(table: pd.DataFrame, conditions: tuple[str, ...]) -> pd.DataFrame:
    """Return the runs that satisfy every ``column=value``; ``a|b`` is either.

    Raises :class:`AnalysisError` where none does, with the values that there are.
    """
    for condition in conditions:
        name, _, wanted = condition.partition("=")
        found = table[column(name, table, "where")]
        matches = pd.Series(False, index=table.index)
        for value in wanted.split("|"):
            matches |= _equals(found, value)
        if not matches.any():
            there = ", ".join(sorted({_text(value) for value in found})[:12])
            raise AnalysisError(f"where={condition}: no run has it; there are {there}")
        table = table[matches]
    return table.reset_index(drop=True)


def _equals(found: pd.Series[object], value: str) -> pd.Series[bool]:
    if pd.api.types.is_bool_dtype(found):
        return (found.astype("str").str.lower() == value.lower()).fillna(False)
    if pd.api.types.is_numeric_dtype(found):
        number = pd.to_numeric(value, errors="coerce")
        return (found.isna() if value in ("", "none", "null") else found == number).fillna(False).astype(bool)
    return (found.isna() if value in ("none", "null") else found == value).fillna(False).astype(bool)


def _text(value: object) -> str:
    if pd.isna(value):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
