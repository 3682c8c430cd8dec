"""Pairs of configurations, compared item by item, with a verdict that calls nothing better that may be noise.

Every pair comes from the estimates of its block (:mod:`analysis.effects.estimates`), and all pairs of one call are one
family (:mod:`analysis.effects.families`): the interval of each is simultaneous and its p-value corrected by the same
curve. A method is called better only where both learning rates were searched for; at rates that were given, or chosen
by the reported seeds, it is the pair of method and rate that scores higher. With one seed a verdict speaks of the
trained models alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.answers import Answers, answers, forgettings
from analysis.conditions import resumed
from analysis.configurations import blocks, cells, configured
from analysis.effects.families import Contrasts, Family, contrasts, family
from analysis.effects.variance import Array
from analysis.effects.verdicts import MARGIN, Needed, Verdict, margin_of, needed, relation, verdicts, within
from harness.errors import ConfigError, nearest

PAIRS = "pairs of method and rate"
"""What verdicts rank where a learning rate was not searched for."""
UNSEARCHED = f"this ranks {PAIRS}; search=learning_rate compares methods, each at a rate of its own"
ONE_SEED = "one seed: of these trained models, another seed may say otherwise"


class Outcome(NamedTuple):
    """What configurations are compared in."""

    name: str
    """The column with its name."""
    higher_is_better: str
    """The column with its direction."""
    keys: tuple[str, ...]
    """Columns that runs which may be compared share."""
    read: Callable[[Sequence[tuple[str, pd.DataFrame]], list[str]], list[Answers]]


LEARNING = Outcome("metric", "higher_is_better", ("metric",), answers)
FORGETTING = Outcome(
    "forgetting_name", "forgetting_higher_is_better", ("forgetting_name", "forgetting_version"), forgettings
)


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
    needed: str
    """What would decide whether a difference of the margin is there."""
    note: str = ""
    """Which of the two holds runs that were resumed under other conditions, and which these were."""
    first_rate: float | None = None
    second_rate: float | None = None
    searched: bool = False
    """Whether a search on a seed of its own chose both learning rates."""

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
            return f"{self.ahead} {relation(self.result, self.searched, self.higher_is_better)}{small}"
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
        words = relation(self.result, self.searched, self.higher_is_better)
        return f"{ahead} {words} than {other}{pairs}: {self._size(sign)}{small}, {how}"

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
        rows = [
            asdict(one) | {"result": one.result.value, "ahead": one.ahead, "verdict": one.verdict} for one in self.found
        ]
        return pd.DataFrame(rows, columns=names)

    @property
    def unsearched(self) -> bool:
        """Return whether some comparison is of pairs of method and rate, and not of methods."""
        return any(not one.searched for one in self.found)


@dataclass(frozen=True)
class _Read:
    """What the configurations of one model, task and data answered."""

    where: str
    outcome: Outcome
    known: dict[str, pd.DataFrame]
    """Configuration → its runs."""
    found: list[Answers]


@dataclass(frozen=True)
class _Block:
    """The pairs of one model, task and data."""

    read: _Read
    pairs: list[tuple[int, int]]
    differences: Contrasts
    margins: Array


def compare(
    table: pd.DataFrame, against: str | None = None, margin: float = MARGIN, outcome: Outcome = LEARNING
) -> Comparisons:
    """Compare every two configurations among runs that are done, or each with the one named `against`.

    Runs of different models, tasks, metrics or data are never paired, nor changes of different probes or versions of
    one: each such group is compared within itself. All comparisons of one outcome are a family. A learning rate that is
    to be chosen must be chosen before, by :func:`analysis.fairness.fair`. Raises :class:`ConfigError` where `against`
    is no configuration.
    """
    runs = configured(table[(table["status"] == "done") & ~table["foreign"]])
    _require_known(against, [label for _, rows in blocks(runs) for label, _ in cells(rows)])
    problems: list[str] = []
    alike = [(where, some) for where, rows in blocks(runs) for _, some in rows.groupby(list(outcome.keys), sort=False)]
    parts = []
    for where, rows in alike:
        known = dict(cells(rows))
        found = outcome.read(list(known.items()), problems)
        if pairs := list(_pairs([one.label for one in found], against)):
            parts.append(_block(_Read(where, outcome, known, found), pairs, margin))
    if not parts:
        return Comparisons((), tuple(problems))
    whole = family([one.differences for one in parts])
    return Comparisons(tuple(_compared(parts, whole)), tuple(problems))


def _require_known(against: str | None, labels: list[str]) -> None:
    if against is not None and against not in labels:
        raise ConfigError("against", against, f"no such configuration; {nearest(against, labels)}")


def _block(read: _Read, pairs: list[tuple[int, int]], margin: float) -> _Block:
    """Return the differences of a block and the margin of each, in the outcome's unit."""
    found, estimates = read.found, [one.estimate for one in read.found]
    differences = contrasts(estimates, pairs, len(found[0].ids), all(one.graded for one in found))
    levels = [(estimates[one].value + estimates[other].value) / 2 for one, other in pairs]
    margins = np.array([margin_of(margin, found[0].bounds, level) for level in levels])
    return _Block(read, pairs, differences, margins)


def _pairs(labels: Sequence[str], against: str | None) -> Iterator[tuple[int, int]]:
    for one, other in itertools.combinations(range(len(labels)), 2):
        if against is None or against in (labels[one], labels[other]):
            yield (other, one) if labels[one] == against else (one, other)


def _compared(parts: list[_Block], whole: Family) -> Iterator[Comparison]:
    """Yield the comparisons of all blocks, in the family's order."""
    margins = np.concatenate([one.margins for one in parts])
    higher = np.concatenate([np.full(len(one.pairs), _higher(one)) for one in parts])
    low, high = whole.intervals()
    numbers = {
        "difference": whole.values,
        "low": low,
        "high": high,
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
        yield Comparison(**_sides(part, pair), **row, family=len(whole), needed=str(more))


def _higher(part: _Block) -> bool:
    return bool(next(iter(part.read.known.values()))[part.read.outcome.higher_is_better].iloc[0])


def _needed(part: _Block, whole: Family) -> list[Needed]:
    seeds = [min(part.read.found[k].estimate.seeds for k in pair) for pair in part.pairs]
    return needed(part.differences, np.array(seeds, dtype=float), part.margins, whole.tail)


def _sides(part: _Block, pair: tuple[int, int]) -> dict[str, Any]:
    """Return what a comparison says of its two sides: scores, seeds, rates, and how their runs were made."""
    one, other = (part.read.found[k] for k in pair)
    runs = [part.read.known[side.label] for side in (one, other)]
    notes = [(side.label, resumed(some)) for side, some in zip((one, other), runs, strict=True)]
    rates = [float(some["learning_rate"].astype("float64").iloc[0]) for some in runs]
    return {
        **{"where": part.read.where, "first": one.label, "second": other.label, "items": len(one.ids)},
        **{"metric": str(runs[0][part.read.outcome.name].iloc[0]), "higher_is_better": _higher(part)},
        **{"first_score": one.estimate.value, "second_score": other.estimate.value},
        **{"seeds_first": len(one.rows), "seeds_second": len(other.rows)},
        **{"first_rate": rates[0], "second_rate": rates[1]},
        "searched": all(bool(some["searched"].fillna(False).all()) for some in runs),
        "note": "; ".join(f"{name} was {note}" for name, note in notes if note),
    }


def signed(value: float) -> str:
    """Return a difference as +.043, or with three digits where it is larger."""
    if not math.isfinite(value):
        return "?"
    text = f"{value:+.3f}" if abs(value) < 10 else f"{value:+.3g}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text
