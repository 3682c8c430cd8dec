"""Test scores over seeds, with the interval that the tables give them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.answers import answers
from analysis.drawing.series import over_seeds


def scores_over_seeds(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the mean score of each group of runs; columns as of :func:`analysis.drawing.series.over_seeds`.

    With several runs the interval is that of :class:`analysis.effects.estimates.Estimate`, for which the runs' items
    are read; where one run's cannot be, it is made of the runs' own intervals.
    """
    found = over_seeds(table, by, "score", "score_low", "score_high")
    runs = {ids: table[table["id"].astype(str).isin(ids.split())] for ids in found["ids"]}
    read = answers([(ids, some) for ids, some in runs.items() if len(some) > 1], [])
    known = {one.label: one.interval() for one in read if len(one.rows) == len(runs[one.label])}
    for row, ids in found["ids"].items():
        if ids in known:
            found.loc[row, ["low", "high"]] = known[ids]
    return found
