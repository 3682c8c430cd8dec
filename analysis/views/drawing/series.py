"""Runs that differ by their seed alone → their mean with its interval, and a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.effects.blocks import Effects
from analysis.effects.estimates import of_runs
from analysis.effects.outcomes import Outcome
from analysis.views.drawing.style import compact, missing

SETTING = ["method", "rank", "learning_rate", "setting"]
"""Runs that agree in these differ by their seed alone."""


def over_seeds(
    rows: pd.DataFrame, by: Sequence[str], value: str, low: str | None = None, high: str | None = None
) -> pd.DataFrame:
    """Return, for each group of runs, the mean over seeds and its 95 % interval.

    It is that of :func:`analysis.effects.estimates.of_runs`: Student's t over the seeds, and the items' share where the
    runs came with intervals of their own, `low` to `high`. With one run it is that one's own, which speaks of the items
    and says nothing of other seeds. Columns: `by`, value, low, high, seeds (how many
    runs), interval ("seeds", "items" or ""), ids. Runs without a value are left out.
    """
    known = rows[numbers(rows, value).notna()]
    if known.empty:
        return pd.DataFrame(columns=[*by, "value", "low", "high", "seeds", "interval", "ids"])
    kept = list(dict.fromkeys([*by, value, *filter(None, (low, high)), "id"]))
    groups = known[kept].groupby(list(by), dropna=False, sort=False)
    return in_order(pd.DataFrame([_keys(by, key) | _summary(some, value, low, high) for key, some in groups]))


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows method by method in the order of the records, ranks rising; else their order stays."""
    if not {"method", "rank"} <= set(rows.columns):
        return rows
    order = {method: place for place, method in enumerate(dict.fromkeys(rows["method"]))}
    keys = pd.DataFrame({"method": rows["method"].map(order), "rank": numbers(rows, "rank").fillna(0)})
    return rows.loc[keys.sort_values(["method", "rank"], kind="stable").index].reset_index(drop=True)


def _keys(by: Sequence[str], key: Any) -> dict[str, Any]:
    return dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))


def _summary(rows: pd.DataFrame, value: str, low: str | None, high: str | None) -> dict[str, Any]:
    values = numbers(rows, value).to_numpy()
    lows, highs = (numbers(rows, end or "").to_numpy() for end in (low, high))
    ends = of_runs(values, lows, highs)
    interval = "seeds" if len(values) > 1 else "items" if np.isfinite(ends).all() else ""
    facts = {"seeds": len(values), "interval": interval, "ids": " ".join(dict.fromkeys(rows["id"].astype(str)))}
    return {"value": float(values.mean()), "low": ends[0], "high": ends[1]} | facts


def numbers(rows: pd.DataFrame, column: str) -> pd.Series[Any]:
    """Return a column as floats, what is missing as NaN; all NaN where there is no such column."""
    if column not in rows.columns:
        return pd.Series(np.nan, index=rows.index)
    return pd.to_numeric(rows[column], errors="coerce").astype("float64")


def named(rows: pd.DataFrame, rate: bool = False) -> pd.Series[Any]:
    """Return each row's name for a legend: method, rank, where wanted the rate, and what else sets it apart."""
    return pd.Series([_name(row, rate) for row in rows.to_dict("records")], index=rows.index, dtype="str")


def _name(row: dict[str, Any], rate: bool) -> str:
    parts = [str(row["method"])]
    parts += [] if missing(row.get("rank")) else [f"r{int(row['rank'])}"]
    parts += [f"lr {compact(row['learning_rate'])}"] if rate and not missing(row.get("learning_rate")) else []
    parts += [row["setting"]] if row.get("setting") else []
    return " ".join(parts)


def effects_over_seeds(found: Effects, table: pd.DataFrame, by: Sequence[str], outcome: Outcome) -> pd.DataFrame:
    """Return an outcome of each group of runs; columns as of :func:`analysis.views.drawing.series.over_seeds`.

    Where no run's items can be read, the mean and interval are those of the runs' own numbers.
    """
    rows = over_seeds(table, by, outcome.column, f"{outcome.column}_low", f"{outcome.column}_high")
    for row, ids in rows["ids"].items():
        effect = found.of(table[table["id"].astype(str).isin(ids.split())], outcome)
        if effect is not None:
            kind = "seeds" if effect.estimate.outer > 0 else "items"
            rows.loc[row, ["value", "low", "high", "interval"]] = [effect.estimate.value, *effect.interval(), kind]
    return rows
