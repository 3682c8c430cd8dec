"""Which runs are the same but for seed and learning rate, and which runs may be set side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from harness.config import ModelConfig, TrainConfig
from harness.identity import DESCRIPTIVE, OPERATIONAL

BLOCK = ("model", "task", "metric", "data_hash")
"""Only runs that share these are ever compared."""
KEYS = ("method", "rank")
RATES = {"learning_rate", "learning_rate_factor"}
SETTINGS = ("config.method.", "config.train.", "config.task.", "config.model.", "config.sequence_between")
UNIT = "configuration"
WIDE = ("config.", "version.", "seconds.")
"""Columns, most of the table's 250, of which an outcome needs none."""
SECTIONS = {"config.model.": ModelConfig, "config.train.": TrainConfig}
"""Settings whose defaults are known here."""
NEVER_NULL = {
    settings: {one.name for one in fields(settings) if one.default is not None} for settings in SECTIONS.values()
}
"""Their fields that a record of today always has: by default they are something."""


def configured(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column `configuration`: the label, and every other setting that tells runs apart.

    A setting counts for the runs of one model, task, method and rank among which it differs, so that a sweep of one
    method's option renames no other. The seed, the learning rate and what changes no result do not count: such runs are
    the same configuration.
    """
    names = [name for name in table.columns if name.startswith(SETTINGS) and _counts(name)]
    groups = table.groupby(["model", "task", *KEYS, "foreign"], dropna=False, sort=False)
    of_group = groups.ngroup().tolist()
    differs = {name: (groups[name].nunique(dropna=_never_null(name)) > 1).tolist() for name in names}
    differing = [[name for name in names if differs[name][number]] for number in range(len(groups))]
    rows = table[["label", *names]].to_dict("records")
    labels = [_label(row, differing[group]) for row, group in zip(rows, of_group, strict=True)]
    return table.assign(**{UNIT: pd.Series(labels, index=table.index, dtype="str")})


def _counts(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last not in {*RATES, *DESCRIPTIVE, *OPERATIONAL, "rank", "use_cpu"}


def _never_null(name: str) -> bool:
    """Return whether a missing value says that the record is older than the setting: its default is no null."""
    for section, settings in SECTIONS.items():
        if name.startswith(section):
            return name.removeprefix(section).partition(".")[0] in NEVER_NULL[settings]
    return False


def _label(row: dict[Any, Any], differing: list[str]) -> str:
    more = [f"{name.rpartition('.')[2]}={_plain(row[name])}" for name in differing]
    return " ".join([str(row["label"]), *more])


def _plain(value: object) -> str:
    if pd.isna(value):
        return "default"
    return f"{value:g}" if isinstance(value, float) else str(value)


def blocks(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield runs that may be compared with each other, with a name for them: empty where they are all there is."""
    found = [rows for _, rows in table.groupby(list(BLOCK), dropna=False, sort=False)]
    for rows in found:
        yield ("" if len(found) == 1 else _name(rows.iloc[0], table)), rows


def _name(row: pd.Series[object], table: pd.DataFrame) -> str:
    same_task = table[(table["model"] == row["model"]) & (table["task"] == row["task"])]
    data = f" (data {str(row['data_hash'])[:8]})" if same_task["data_hash"].nunique(dropna=False) > 1 else ""
    return f"{row['model']} on {row['task']}{data}"


def narrow(table: pd.DataFrame, keep: Sequence[str] = ()) -> pd.DataFrame:
    """Return the table without settings, versions and times but those to keep: grouping is ten times as fast."""
    return table[[name for name in table.columns if name in keep or not str(name).startswith(WIDE)]]


def newest(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one run for each seed, the last that was started: a seed counts once."""
    return runs.sort_values("started", na_position="first").drop_duplicates("seed", keep="last")


def repeated(runs: pd.DataFrame) -> list[int]:
    """Return the seeds that more than one run has."""
    counts = runs["seed"].value_counts()
    return sorted(int(seed) for seed in counts[counts > 1].index)
