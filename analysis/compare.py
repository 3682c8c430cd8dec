"""Pairs of configurations, compared item by item, with a verdict that calls nothing better that may be noise.

- One run each, right or wrong answers: exact McNemar, Bonett and Price's interval. It speaks of the two trained models.
- One run each, any other metric: a paired bootstrap over the items. It speaks of the two trained models.
- Several seeds: the hierarchical bootstrap of :class:`analysis.effects.estimates.Estimate`. McNemar would count an item
  once for each seed, as if they were different items.

All comparisons of one call are one family, corrected by Holm. A method is called better only where both learning rates
were searched for; at rates that were given, or chosen by the reported seeds, it is the pair of method and rate that
scores higher.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import pandas as pd

from analysis.answers import Answers, answers
from analysis.conditions import resumed
from analysis.configurations import blocks, cells, configured
from analysis.effects.estimates import ALPHA, MOST, Estimate, McNemar, holm
from analysis.effects.variance import Array
from analysis.errors import AnalysisError
from harness.errors import ConfigError, nearest

PAIRS = "pairs of method and rate"
"""What verdicts rank where a learning rate was not searched for."""
UNSEARCHED = f"this ranks {PAIRS}; search=learning_rate compares methods, each at a rate of its own"


@dataclass(frozen=True)
class Comparison:
    """Two configurations, the difference between them, and what may be said of it."""

    where: str
    """The model and task, where there are several."""
    first: str
    second: str
    metric: str
    first_score: float
    second_score: float
    difference: float
    """First − second, in the metric's unit."""
    low: float
    high: float
    """The 95 % interval of `difference`."""
    p: float
    p_holm: float
    """Corrected for the family."""
    family: int
    test: str
    items: int
    seeds_first: int
    seeds_second: int
    higher_is_better: bool
    needed: str
    """What would show the difference seen here with 80 % power in this family, at Holm's first step .05/m."""
    note: str = ""
    """Which of the two holds runs that were resumed under other conditions, and which these were."""
    first_rate: float | None = None
    second_rate: float | None = None
    searched: bool = False
    """Whether a search on a seed of its own chose both learning rates."""

    @property
    def ahead(self) -> str | None:
        """Return the better one's name, None where that was not shown: corrected p and interval must both show it."""
        if not self.p_holm < ALPHA or self.low <= 0 <= self.high:
            return None
        return self.first if (self.difference > 0) == self.higher_is_better else self.second

    @property
    def verdict(self) -> str:
        """Return what may be said, in one line."""
        return "; ".join(filter(None, (self._unmarked(), self.note)))

    def _unmarked(self) -> str:
        how = f"p = {self.p_holm:.2g} ({self.test}, Holm over {self.family})"
        first, second = self._name(self.first, self.first_rate), self._name(self.second, self.second_rate)
        pairs = "" if self.searched else f" ({PAIRS})"
        if self.ahead is None:
            return f"{first} and {second}{pairs}: no difference shown, {self._size(1)}, {how}; {self.needed}"
        ahead, other, sign = (first, second, 1) if self.ahead == self.first else (second, first, -1)
        said = f"{ahead} {self.relation} than {other}{pairs}: {self._size(sign)}, {how}"
        single = min(self.seeds_first, self.seeds_second) == 1
        return f"{said}; one seed: of these trained models, another seed may say otherwise" if single else said

    @property
    def relation(self) -> str:
        """Return what may be said of the one ahead: of a method only where both rates were searched for."""
        if self.searched:
            return "is better"
        return "scores higher" if self.higher_is_better else "scores lower"

    def _name(self, label: str, rate: float | None) -> str:
        """Return a configuration with the rate that it is compared at, where the verdict is of that rate alone."""
        known = self.searched or rate is None or math.isnan(rate) or label.endswith(f"lr={rate:g}")
        return label if known else f"{label} at {rate:g}"

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
        rows = [asdict(one) | {"ahead": one.ahead, "verdict": one.verdict} for one in self.found]
        return pd.DataFrame(rows, columns=names)

    @property
    def unsearched(self) -> bool:
        """Return whether some comparison is of pairs of method and rate, and not of methods."""
        return any(not one.searched for one in self.found)


def compare(table: pd.DataFrame, against: str | None = None) -> Comparisons:
    """Compare every two configurations among runs that are done, or each with the one named `against`.

    Runs of different models, tasks, metrics or data are never paired: each such group is compared within itself. A
    learning rate that is to be chosen must be chosen before, by :func:`analysis.fairness.fair`. Raises
    :class:`ConfigError` where `against` is no configuration.
    """
    runs = configured(table[(table["status"] == "done") & ~table["foreign"]])
    _require_known(against, [label for _, rows in blocks(runs) for label, _ in cells(rows)])
    problems: list[str] = []
    pairs = [
        (one, other, rows.iloc[0], where)
        for where, rows in blocks(runs)
        for one, other in _pairs(answers(list(cells(rows)), problems), against)
    ]
    found = [compare_pair(*pair, family=len(pairs)) for pair in pairs]
    corrected = holm([one.p for one in found])
    known = {(where, label): some for where, rows in blocks(runs) for label, some in cells(rows)}
    judged = (_described(replace(one, p_holm=p), known) for one, p in zip(found, corrected, strict=True))
    return Comparisons(tuple(judged), tuple(problems))


def _described(one: Comparison, known: dict[tuple[str, str], pd.DataFrame]) -> Comparison:
    """Return the comparison with what the runs of both say of their rates and of the conditions they were made under.

    `known` is (where, configuration) → runs.
    """
    both = {name: known[one.where, name] for name in (one.first, one.second)}
    notes = {name: resumed(some) for name, some in both.items()}
    first, second = (float(some["learning_rate"].astype("float64").iloc[0]) for some in both.values())
    return replace(
        one,
        note="; ".join(f"{name} was {note}" for name, note in notes.items() if note),
        first_rate=first,
        second_rate=second,
        searched=all(bool(some["searched"].fillna(False).all()) for some in both.values()),
    )


def _require_known(against: str | None, labels: list[str]) -> None:
    if against is not None and against not in labels:
        raise ConfigError("against", against, f"no such configuration; {nearest(against, labels)}")


def _pairs(found: list[Answers], against: str | None) -> Iterator[tuple[Answers, Answers]]:
    for one, other in itertools.combinations(found, 2):
        if against is None or against in (one.label, other.label):
            yield (other, one) if one.label == against else (one, other)


def compare_pair(
    one: Answers, other: Answers, block: pd.Series[object], where: str = "", family: int = 1
) -> Comparison:
    """Compare two configurations on the same items; the p-value is corrected once those of its family are known.

    Raises :class:`AnalysisError` where they answered other items.
    """
    if one.ids != other.ids:
        raise AnalysisError(f"{one.label}, {other.label}: answered different items and cannot be compared")
    seeds = len(one.rows), len(other.rows)
    if max(seeds) == 1 and one.graded and other.graded:
        test, found = "exact McNemar", _mcnemar(one.rows[0, :, 0], other.rows[0, :, 0], ALPHA / family)
    else:
        test = "paired bootstrap" if max(seeds) == 1 else "hierarchical bootstrap"
        found = _bootstrapped(one.estimate - other.estimate, len(one.ids), ALPHA / family)
    difference, (low, high), p, needed = found
    return Comparison(
        where,
        one.label,
        other.label,
        str(block["metric"]),
        one.estimate.value,
        other.estimate.value,
        difference,
        low,
        high,
        p,
        p,
        family,
        test,
        len(one.ids),
        *seeds,
        bool(block["higher_is_better"]),
        needed,
    )


Found = tuple[float, tuple[float, float], float, str]
"""Difference, interval, p-value, and what would show it."""


def _mcnemar(one: Array, other: Array, alpha: float) -> Found:
    counts = McNemar(int((one > other).sum()), int((one < other).sum()), len(one))
    return counts.value, counts.interval(), counts.p(), _said(items=counts.items_needed(alpha))


def _bootstrapped(found: Estimate, count: int, alpha: float) -> Found:
    needed = found.needed(alpha)
    if found.outer == 0:
        return found.value, found.interval(), found.p(), _said(items=needed.factor * count)
    both = {"items": needed.factor * count, "seeds": needed.factor * found.seeds}
    said = _said(seeds=needed.seeds) if math.isfinite(needed.seeds) else _said(**both)
    return found.value, found.interval(), found.p(), said


def _said(**amounts: float) -> str:
    """Return how much would show a difference, such as ``n needed ≈ 1,250 items``."""
    if not all(map(math.isfinite, amounts.values())):
        return "no number would show it, the scores are equal"
    if amounts.get("seeds", 0) > MOST:
        return f"n needed: more than {MOST:,} seeds each"
    parts = [f"{math.ceil(amount):,} {what}" for what, amount in amounts.items()]
    return f"n needed ≈ {' and '.join(parts)}{' each' if 'seeds' in amounts else ''}"


def signed(value: float) -> str:
    """Return a difference as +.043, or with three digits where it is larger."""
    if not math.isfinite(value):
        return "?"
    text = f"{value:+.3f}" if abs(value) < 10 else f"{value:+.3g}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text
