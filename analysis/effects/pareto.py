"""Learning against forgetting: which configurations no other beats in both, how surely, and what equal learning costs.

Both come from the effects of a block, so that learning and forgetting have the numbers that comparisons give them, each
configuration at the rate that validation chose. Forgetting is turned so that more is worse, whatever the probe's
metric: a loss that rose, an accuracy that fell. It may be negative: a run can gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from analysis.effects.blocks import Effects
from analysis.effects.equal import Equal, equal_learning
from analysis.effects.planes import Plane, optimal, planes
from analysis.effects.verdicts import MARGIN
from analysis.records.conditions import resumed

ROWS = ["where", "configuration", "method", "learning", "forgetting", "optimal", "frequency", "seeds", "note"]
FLATTERED = "these seeds chose the rate: the score is flattered"


class Pareto(NamedTuple):
    """A row a configuration, what methods forget at equal learning, and what could not be said."""

    rows: pd.DataFrame
    """Columns: where, configuration, method, learning, forgetting (more is worse), optimal, frequency, seeds, note."""
    equal: pd.DataFrame
    """A row two methods; columns are the fields of :class:`Equal`."""
    problems: tuple[str, ...]


def pareto(found: Effects, learning: float | None = None, margin: float = MARGIN) -> Pareto:
    """Return the Pareto-optimal configurations among runs that are done and had forgetting measured.

    The frequency is the share of draws of items and seeds in which no other configuration learns at least as much and
    forgets at most as much. `learning` is the score at which forgetting is compared, the highest that both methods
    surely reach unless given; `margin` the smallest difference of forgetting of interest.
    """
    made = list(planes(found))
    rows = pd.DataFrame([row for one in made for row in _rows(one)], columns=ROWS)
    equal = pd.DataFrame(equal_learning(made, learning, margin), columns=list(Equal._fields))
    return Pareto(rows, equal, found.problems)


def _rows(plane: Plane) -> Iterator[dict[str, object]]:
    count = len(plane.points)
    drawn = plane.joint.sampled().reshape(-1, 2, count).transpose(0, 2, 1)
    often, best = optimal(drawn).mean(0), optimal(plane.points)
    for number, one in enumerate(plane.learned):
        run, point = one.runs.iloc[0], plane.points[number]
        said = FLATTERED if run.get("chosen_by") == "seeds" else ""
        facts = {"where": plane.where, "configuration": one.label, "method": run["method"], "seeds": len(one.runs)}
        numbers = {"learning": point[0] * plane.sign, "forgetting": point[1], "frequency": float(often[number])}
        note = "; ".join(filter(None, (resumed(one.runs), said)))
        yield facts | numbers | {"optimal": bool(best[number]), "note": note}
