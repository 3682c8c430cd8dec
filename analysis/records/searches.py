"""What the searches for learning rates tried, read from the records of the results at the rates they chose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.records import record
from analysis.records.configurations import UNIT

COLUMNS = ("learning_rate", "value", "low", "high", "items", "reason", "chosen", "run")
OF_ALL = ("why", "warning", "metric", "search_seed", "max_runs")


def searches(runs: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """Yield each configuration's runs at the rate that a search chose, with that search as their record has it.

    `runs` have a column `configuration`. Where a configuration was searched more than once, the widest search counts.
    """
    found = runs[runs["searched"].fillna(False)]
    for _, some in found.groupby(["model", "task", UNIT], dropna=False, sort=False):
        widest = some.sort_values(["rates_tried", "started"]).iloc[-1]
        kept = some[some["learning_rate"] == widest["learning_rate"]]
        yield kept, record(str(widest["folder"]))["search"]


def tried(search: dict[str, Any]) -> pd.DataFrame:
    """Return a row a tried rate, from the lowest: its validation score, or the reason why it has none.

    Columns: those of :data:`COLUMNS`, and what holds of the whole search, :data:`OF_ALL`.
    """
    rows = [
        {"learning_rate": one["rate"], "value": one["score"], "chosen": one["rate"] == search["chosen"]}
        | {name: one.get(name) for name in ("low", "high", "items", "reason", "run")}
        for one in search["tried"]
    ]
    whole = {name: search[name] for name in ("why", "warning", "metric", "max_runs")} | {"search_seed": search["seed"]}
    numbers = dict.fromkeys(("value", "low", "high", "items"), "float64")
    return pd.DataFrame(rows, columns=[*COLUMNS]).astype(numbers).assign(**whole).sort_values("learning_rate")
