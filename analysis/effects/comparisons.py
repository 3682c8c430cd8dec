"""Pairs of configurations, compared item by item, with a verdict that calls nothing better that may be noise.

Every pair comes from the estimates of its block (:mod:`analysis.effects.blocks`), and all pairs of one call are one
family (:mod:`analysis.effects.families`): the interval of each is simultaneous and its p-value corrected by the same
curve. A method is called better only where both learning rates were searched for; at rates that were given, or chosen
by the reported seeds, it is the pair of method and rate that scores higher. With one seed a verdict speaks of the
trained models alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.effects.blocks import Effect, Effects
from analysis.effects.families import Contrasts, Family, contrasts, family
from analysis.effects.outcomes import LEARNING, Outcome, Price
from analysis.effects.variance import Array
from analysis.effects.verdicts import MARGIN, Needed, Verdict, margin_of, needed, relation, verdicts, within
from analysis.records.conditions import resumed
from harness.errors import ConfigError, nearest

PAIRS = "pairs of method and rate"
"""What verdicts rank where a learning rate was not searched for."""
UNSEARCHED = f"this ranks {PAIRS}; search=learning_rate compares methods, each at a rate of its own"
ONE_SEED = "one seed: of these trained models, another seed may say otherwise"


@dataclass(frozen=True)
class Comparison:
    """Two configurations, the difference between them, and what may be said of it."""

    where: str
    """The model and task, where there are several."""
    first: str
    second: str
    metric: str
    higher_is_better: bool
    first_score: float
    second_score: float
    difference: float
    """First − second, in the metric's unit."""
    low: float
    high: float
    """The ends of the interval of `difference`, which hold all differences of the family with 95 %."""
    p: float
    """Of this comparison alone."""
    p_family: float
    """Corrected for the family: below .05 exactly where `low` to `high` leaves out 0."""
    family: int
    margin: float
    """The smallest difference of interest, in the metric's unit."""
    result: Verdict
    """Of the first against the second."""
    within_margin: bool
    """Whether the interval lies within ±margin."""
    items: int
    seeds_first: int
    seeds_second: int
    needed: Needed
    """What would decide whether a difference of the margin is there."""
    note: str = ""
    """Which of the two holds runs that were resumed under other conditions, and which these were."""
    first_rate: float | None = None
    second_rate: float | None = None
    searched: bool = False
    """Whether a search on a seed of its own chose both learning rates."""
    verb: str = ""
    """What the one that is ahead does, such as ``forgets less``; empty where it is just better."""

    @property
    def ahead(self) -> str | None:
        """Return the better one's name, None where that was not shown."""
        return {Verdict.better: self.first, Verdict.worse: self.second}.get(self.result)

    @property
    def single(self) -> bool:
        """Return whether a side has one seed, so that the verdict speaks of trained models alone."""
        return min(self.seeds_first, self.seeds_second) == 1

    @property
    def outcome(self) -> str:
        """Return the verdict without names and numbers, as a table's cell shows it."""
        small = f", by less than {self.margin:.2g}" if self.within_margin else ""
        if self.ahead is not None:
            return f"{self.ahead} {self._relation()}{small}"
        return f"equivalent within {self.margin:.2g}" if self.result is Verdict.equivalent else "undecided"

    @property
    def caveat(self) -> str:
        """Return what would decide it, or what a single seed cannot say."""
        if self.result is Verdict.undecided:
            return f"{self.needed} for {self.margin:.2g}"
        return ONE_SEED if self.single else ""

    @property
    def verdict(self) -> str:
        """Return what may be said, in one line."""
        return "; ".join(filter(None, (self._said(), self.caveat, self.note)))

    def _said(self) -> str:
        how = f"p = {self.p_family:.2g} (max-t over {self.family})"
        first, second = self._name(self.first, self.first_rate), self._name(self.second, self.second_rate)
        pairs = "" if self.searched else f" ({PAIRS})"
        if self.ahead is None:
            return f"{first} and {second}{pairs}: {self.outcome}, {self._size(1)}, {how}"
        ahead, other, sign = (first, second, 1) if self.ahead == self.first else (second, first, -1)
        small = f", less than {self.margin:.2g}" if self.within_margin else ""
        return f"{ahead} {self._relation()} than {other}{pairs}: {self._size(sign)}{small}, {how}"

    def _relation(self) -> str:
        return self.verb or relation(self.result, self.searched, self.higher_is_better)

    def _name(self, label: str, rate: float | None) -> str:
        """Return a configuration with the rate that it is compared at, where the verdict is of that rate alone."""
        return label if self.searched or rate is None or math.isnan(rate) else f"{label} at {rate:g}"

    def _size(self, sign: int) -> str:
        low, high = sorted((sign * self.low, sign * self.high))
        return f"{self.metric} {signed(sign * self.difference)} [{signed(low)}, {signed(high)}]"


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of a family, and a line for each run that could not take part."""

    found: tuple[Comparison, ...]
    problems: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Return a row a comparison; the columns are the fields of :class:`Comparison`."""
        names = [*Comparison.__dataclass_fields__, "ahead", "verdict"]
        rows = [
            asdict(one)
            | {"result": one.result.value, "needed": str(one.needed), "ahead": one.ahead, "verdict": one.verdict}
            for one in self.found
        ]
        return pd.DataFrame(rows, columns=names)

    @property
    def unsearched(self) -> bool:
        """Return whether some comparison is of pairs of method and rate, and not of methods."""
        return any(not one.searched for one in self.found)


@dataclass(frozen=True)
class _Part:
    """The pairs of a set of effects that may be compared."""

    where: str
    effects: list[Effect]
    pairs: list[tuple[int, int]]
    differences: Contrasts
    margins: Array


def compare(
    found: Effects, against: str | None = None, margin: float = MARGIN, outcome: Outcome | Price = LEARNING
) -> Comparisons:
    """Compare every two configurations, each at its chosen rate, or each with the one named `against`.

    Runs of different models, tasks, metrics or data are never paired, nor changes of different probes or versions of
    one: each such set is compared within itself. All comparisons of one outcome are a family. Raises
    :class:`ConfigError` where `against` is no configuration.
    """
    _require_known(against, [label for block in found.blocks for label in block.configurations])
    sets = [(block.where, some) for block in found.blocks for some in block.sets(outcome)]
    parts = [_part(where, some, against, margin) for where, some in sets]
    parts = [one for one in parts if one.pairs]
    if not parts:
        return Comparisons((), found.problems)
    whole = family([one.differences for one in parts])
    return Comparisons(tuple(_compared(parts, whole)), found.problems)


def _require_known(against: str | None, labels: list[str]) -> None:
    if against is not None and against not in labels:
        raise ConfigError("against", against, f"no such configuration; {nearest(against, labels)}")


def _part(where: str, effects: list[Effect], against: str | None, margin: float) -> _Part:
    """Return the differences of a set of effects and the margin of each, in the outcome's unit."""
    pairs, first = list(_pairs([one.label for one in effects], against)), effects[0]
    estimates = [one.estimate for one in effects]
    differences = contrasts(estimates, pairs, first.units, all(one.graded for one in effects))
    levels = [(estimates[one].value + estimates[other].value) / 2 for one, other in pairs]
    margins = [margin * abs(x) if first.relative else margin_of(margin, first.bounds, x) for x in levels]
    return _Part(where, effects, pairs, differences, np.array(margins))


def _pairs(labels: Sequence[str], against: str | None) -> Iterator[tuple[int, int]]:
    for one, other in itertools.combinations(range(len(labels)), 2):
        if against is None or against in (labels[one], labels[other]):
            yield (other, one) if labels[one] == against else (one, other)


def _compared(parts: list[_Part], whole: Family) -> Iterator[Comparison]:
    """Yield the comparisons of all parts, in the family's order."""
    margins = np.concatenate([one.margins for one in parts])
    higher = np.concatenate([np.full(len(one.pairs), one.effects[0].higher_is_better) for one in parts])
    low, high = whole.intervals()
    most = np.concatenate([np.full(len(one.pairs), one.effects[0].most) for one in parts])
    numbers = {
        "difference": whole.values,
        "low": np.maximum(low, -most),  # shares differ by at most 1, whatever a few seeds' spread may say
        "high": np.minimum(high, most),
        "p": whole.alone(),
        "p_family": whole.p(),
        "margin": margins,
        "within_margin": within(whole, margins),
    }
    columns = {name: column.tolist() for name, column in numbers.items()}
    columns["result"] = verdicts(whole, margins, higher)
    pairs = ((part, pair, more) for part in parts for pair, more in zip(part.pairs, _needed(part, whole), strict=True))
    for number, (part, pair, more) in enumerate(pairs):
        row = {name: column[number] for name, column in columns.items()}
        sides = part.effects[pair[0]], part.effects[pair[1]]
        one = Comparison(**_sides(part.where, *sides), **row, family=len(whole), needed=more)
        yield _survivors(one, *(_lost(side) for side in sides))


def _needed(part: _Part, whole: Family) -> list[Needed]:
    seeds = [min(part.effects[k].estimate.seeds for k in pair) for pair in part.pairs]
    return needed(part.differences, np.array(seeds, dtype=float), part.margins, whole.tail)


def _lost(side: Effect) -> str:
    """Return which seeds diverged at the rate of a configuration, so that its score is of the others alone."""
    return str(side.runs["diverged_seeds"].iloc[0])


def _survivors(one: Comparison, first: str, second: str) -> Comparison:
    """Return a comparison in which the survivors of a rate that seeds diverged at are never ahead, nor equivalent."""
    if not (first or second):
        return one
    behind = {Verdict.better: second and not first, Verdict.worse: first and not second}.get(one.result, False)
    sides = ((one.first, first), (one.second, second))
    said = "; ".join(f"{name}: seed {seeds} diverged, which counts as worst" for name, seeds in sides if seeds)
    result = one.result if behind else Verdict.undecided
    return replace(one, result=result, note="; ".join(filter(None, (one.note, said))))


def _sides(where: str, one: Effect, other: Effect) -> dict[str, Any]:
    """Return what a comparison says of its two sides: scores, seeds, rates, and how their runs were made."""
    notes = [(side.label, resumed(side.runs)) for side in (one, other)]
    rates = [float(side.runs["learning_rate"].astype("float64").iloc[0]) for side in (one, other)]
    return {
        **{"where": where, "first": one.label, "second": other.label, "items": one.items},
        **{"metric": one.title, "higher_is_better": one.higher_is_better, "verb": one.verb},
        **{"first_score": one.estimate.value, "second_score": other.estimate.value},
        **{"seeds_first": len(one.runs), "seeds_second": len(other.runs)},
        **{"first_rate": rates[0], "second_rate": rates[1]},
        "searched": all(bool(side.runs["searched"].fillna(False).all()) for side in (one, other)),
        "note": "; ".join(f"{name} was {note}" for name, note in notes if note),
    }


def signed(value: float) -> str:
    """Return a difference as +.043, or with three digits where it is larger."""
    if not math.isfinite(value):
        return "?"
    text = f"{value:+.3f}" if abs(value) < 10 else f"{value:+.3g}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text
