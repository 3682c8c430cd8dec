"""Scores and forgetting over seeds as the effects have them, so that a figure shows the numbers of the tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.drawing.series import over_seeds
from analysis.effects.blocks import Effects
from analysis.effects.outcomes import Outcome


def effects_over_seeds(found: Effects, table: pd.DataFrame, by: Sequence[str], outcome: Outcome) -> pd.DataFrame:
    """Return an outcome of each group of runs; columns as of :func:`analysis.drawing.series.over_seeds`.

    Where no run's items can be read, the mean and interval are those of the runs' own numbers.
    """
    rows = over_seeds(table, by, outcome.column, f"{outcome.column}_low", f"{outcome.column}_high")
    for row, ids in rows["ids"].items():
        effect = found.of(table[table["id"].astype(str).isin(ids.split())], outcome)
        if effect is not None:
            kind = "seeds" if effect.estimate.outer > 0 else "items"
            rows.loc[row, ["value", "low", "high", "interval"]] = [effect.estimate.value, *effect.interval(), kind]
    return rows
