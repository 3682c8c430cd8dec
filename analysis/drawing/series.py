"""Runs → series: what makes two runs one setting, the mean over seeds with its interval, and the chosen rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

SETTING = ["method", "rank", "learning_rate", "setting"]
"""Runs that agree in these differ by their seed alone."""
SEED_FREE = ("seed", "output_dir", "cache_dir", "dry_run", "rank", "resume")
"""Keys of a configuration that say nothing of what was trained, or stand in columns of their own."""
SEED_FREE_GROUPS = ("tracker.", "sweep.", "train.learning_rate", "method.learning_rate", "method.rank", "method.name")
DESCRIPTIVE = ("licence", "citation", "source", "note", "name", "dataset", "path")
OPERATIONAL = ("logging_steps", "save_steps", "keep_checkpoints", "dataloader_num_workers")


def with_setting(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a column ``setting``: what of the configuration differs besides method, rank, rate, seed.

    Only keys that differ between two runs of one method, rank and rate are named, so ``setting`` is mostly empty; where
    it is not, two sizes of training are two series and never one mean.
    """
    groups = table.groupby(["method", "rank", "learning_rate"], dropna=False, sort=False)
    keys = [name for name in table.columns if name.startswith("config.") and _counts(name.removeprefix("config."))]
    differing = [key for key in keys if bool((groups[key].nunique(dropna=False) > 1).any())]
    parts = [_named(key, table[key]) for key in differing]
    text = [", ".join(filter(None, cells)) for cells in zip(*parts, strict=True)] if parts else [""] * len(table)
    return table.assign(setting=text)


def _counts(key: str) -> bool:
    return (
        key not in SEED_FREE
        and not key.startswith(SEED_FREE_GROUPS)
        and key.rpartition(".")[2] not in (*DESCRIPTIVE, *OPERATIONAL)
    )


def _named(key: str, values: Iterable[Any]) -> list[str]:
    short = key.removeprefix("config.").rpartition(".")[2]
    return ["" if pd.isna(value) else f"{short}={value}" for value in values]


def over_seeds(
    rows: pd.DataFrame, by: Sequence[str], value: str, low: str | None = None, high: str | None = None
) -> pd.DataFrame:
    """Return, for each group of runs, the mean over seeds and its 95 % interval.

    With n ≥ 2 runs the interval is mean ± t(.975, n - 1) s / √n, s with n - 1. With one run it is the run's own, from
    `low` to `high`, which speaks of the items that were scored and says nothing of other seeds. Columns: `by`, value,
    low, high, seeds (the number of runs), interval ("seeds", "items" or ""), ids. Rows without a value are left out.
    """
    known = rows[numbers(rows, value).notna()]
    if known.empty:
        return pd.DataFrame(columns=[*by, "value", "low", "high", "seeds", "interval", "ids"])
    groups = known.groupby(list(by), dropna=False, sort=False)
    found = [_keys(by, key) | _summary(some, value, low, high) for key, some in groups]
    return pd.DataFrame(found)


def _keys(by: Sequence[str], key: Any) -> dict[str, Any]:
    return dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))


def _summary(rows: pd.DataFrame, value: str, low: str | None, high: str | None) -> dict[str, Any]:
    values = numbers(rows, value).to_numpy()
    ids = " ".join(dict.fromkeys(rows["id"].astype(str)))
    ends = (np.nan, np.nan)
    interval = ""
    if len(values) > 1:
        ends, interval = t_interval(values), "seeds"
    elif low is not None and high is not None:
        ends, interval = (float(numbers(rows, low).iloc[0]), float(numbers(rows, high).iloc[0])), "items"
        interval = interval if np.isfinite(ends).all() else ""
    facts = {"seeds": len(values), "interval": interval, "ids": ids}
    return {"value": float(values.mean()), "low": ends[0], "high": ends[1]} | facts


def t_interval(values: Any) -> tuple[float, float]:
    """Return the 95 % interval of a mean, x̄ ± t(.975, n - 1) s / √n; of equal values the mean twice."""
    from scipy import stats

    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def numbers(rows: pd.DataFrame, column: str) -> pd.Series[Any]:
    """Return a column as floats, what is missing as NaN; all NaN where there is no such column."""
    if column not in rows.columns:
        return pd.Series(np.nan, index=rows.index)
    return pd.to_numeric(rows[column], errors="coerce").astype("float64")


def chosen_rates(table: pd.DataFrame) -> pd.Series[Any]:
    """Return whether each run has its method and rank's rate of choice: the best mean validation score over seeds.

    Where a rate has no validation score nothing can be chosen and all rates stay.
    """
    mean = table.assign(validation=numbers(table, "validation")).groupby(SETTING, dropna=False)["validation"]
    score = mean.transform("mean")
    higher = table["higher_is_better"].fillna(True).astype(bool)
    score = score.where(higher, -score)
    best = score.groupby([table[name] for name in ("method", "rank", "setting")], dropna=False)
    chosen = (score == best.transform("max")) | best.transform(lambda some: some.isna().any())
    return chosen.astype(bool)


def named(rows: pd.DataFrame, rate: bool = False) -> pd.Series[Any]:
    """Return each row's name for a legend: method, rank, where wanted the rate, and what else sets it apart."""
    return pd.Series([_name(row, rate) for row in rows.to_dict("records")], index=rows.index, dtype="str")


def _name(row: dict[str, Any], rate: bool) -> str:
    from analysis.drawing.style import compact, missing

    parts = [str(row["method"])]
    parts += [] if missing(row.get("rank")) else [f"r{int(row['rank'])}"]
    parts += [f"lr {compact(row['learning_rate'])}"] if rate and not missing(row.get("learning_rate")) else []
    parts += [row["setting"]] if row.get("setting") else []
    return " ".join(parts)
