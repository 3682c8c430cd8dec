"""Which comparisons speak of a run: those of its configuration, at the learning rate that validation chose."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.compare import PAIRS, compare
from analysis.effects.blocks import Effects, effects_of
from analysis.effects.outcomes import FORGETTING, LEARNING

KEPT = (
    "outcome",
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
    """Return run id → its configuration's comparisons with all others, in score and in forgetting, a row each.

    All comparisons of the table in one outcome are one family. A run at another rate than the chosen one, or with
    nothing beside it, has none.
    """
    found = effects_of(table)
    parts = [compare(found, outcome=one).table().assign(outcome=one.key) for one in (LEARNING, FORGETTING)]
    compared = pd.concat([part for part in parts if len(part)] or parts[:1])
    return {str(run): rows for run, rows in _of_each(found, compared) if len(rows)}


def _of_each(found: Effects, compared: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for block in found.blocks:
        here = compared[compared["where"] == block.where]
        for name, runs in block.configurations.items():
            named = here[(here["first"] == name) | (here["second"] == name)]
            for run in runs["id"]:
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
