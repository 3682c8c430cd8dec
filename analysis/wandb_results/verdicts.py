"""Which comparisons speak of a run: those of its configuration, at the learning rate that validation chose."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.compare import PAIRS, compare
from analysis.configurations import UNIT, blocks
from analysis.fairness import fair

KEPT = (
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
    """Return run id → its configuration's comparisons with all others, a row each, of runs in the tidy table.

    All comparisons of the table are one family. A run at another rate than the chosen one, or
    with nothing beside it, has none.
    """
    chosen = fair(table).chosen
    compared = compare(chosen).table()
    return {str(run): rows for run, rows in _of_each(chosen, compared) if len(rows)}


def _of_each(chosen: pd.DataFrame, compared: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for where, rows in blocks(chosen):
        here = compared[compared["where"] == where]
        for run, name in zip(rows["id"], rows[UNIT], strict=True):
            named = here[(here["first"] == name) | (here["second"] == name)]
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
