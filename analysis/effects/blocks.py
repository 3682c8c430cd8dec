"""The effects of runs: each outcome of each configuration, estimated once, at the learning rate that validation chose.

Tables, comparisons, fronts, figures, the page and W&B show these estimates and make none of their own, so that a number
is the same wherever it stands. A block is the runs of one model, task and version of the data. Seeds' variances are
borrowed across the block's configurations at their chosen rates; another group of runs, such as a rate that was not
chosen, is estimated as if it stood beside them and changes none of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.effects.estimates import (
    DRAWS,
    Estimate,
    Resampled,
    drawn_items,
    estimates,
    quotient,
    resampled,
    resampled_change,
)
from analysis.effects.fairness import fair
from analysis.effects.outcomes import GAIN, Outcome, Price, Read, Run
from analysis.effects.variance import Array
from analysis.errors import AnalysisError
from analysis.records.configurations import BLOCK, UNIT, blocks, narrow
from harness.errors import HarnessError

LEAST = 200
"""Draws; fewer tell nothing of a tail."""
Kind = tuple[object, ...]


def draws_of(items: int) -> int:
    """Return how many resamples fit: of 25,000 items or more fewer than usual, for 2000 would take 0.4 GB."""
    return max(LEAST, min(DRAWS, 5 * 10**7 // items))


@dataclass(frozen=True)
class Effect:
    """An outcome of a configuration, over its seeds and items."""

    label: str
    runs: pd.DataFrame
    """Those that could be read, one a seed."""
    title: str
    """The outcome's name, such as ``accuracy``."""
    higher_is_better: bool
    verb: str
    """What the one that is ahead does, such as ``forgets less``; empty where it is just better."""
    estimate: Estimate
    items: int
    units: int
    """Items, or clusters of them, that were drawn together."""
    bounds: tuple[float, float]
    """The least and the most that the outcome can be."""
    most: float
    """The most that two configurations can differ by: of a change, which began alike, what two levels can."""
    graded: bool
    """Whether it is the share of answers that are right."""
    kind: Kind
    """What effects that may be compared share, such as the probe's version."""
    relative: bool
    """Whether the margin of a comparison is a share of the level."""
    recorded: tuple[float, float]
    """A lone run's own interval, over its items."""
    scores: Array
    """The outcome of each of `runs`, shape ``(seeds,)``."""

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the mean over seeds, within what the outcome can be.

        That of a lone run among others with one seed is its record's own, which speaks of the trained model alone.
        """
        if len(self.runs) == 1 and self.estimate.outer == 0:
            return self.recorded
        low, high = self.estimate.interval()
        return max(low, self.bounds[0]), min(high, self.bounds[1])


Known = dict[tuple[str, str], Read]
"""What was read of runs, by folder and outcome: tables, figures and the page ask of the same runs in several groups."""


@dataclass(frozen=True)
class _Sample:
    """What a group's runs say of an outcome, before variances are borrowed."""

    label: str
    runs: pd.DataFrame
    kind: Kind
    first: Read
    drawn: Resampled


@dataclass
class Block:
    """The runs of one model, task, metric and version of the data."""

    where: str
    """The model and task; empty where it is the only block."""
    place: tuple[str, ...]
    """What its runs share: model, task, metric and data."""
    configurations: dict[str, pd.DataFrame]
    """Each configuration's runs at its chosen rate, one a seed."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, a line each."""
    _effects: dict[str, dict[str, Effect]] = field(default_factory=dict)
    _samples: dict[str, dict[str, _Sample]] = field(default_factory=dict)
    _folders: dict[str, dict[frozenset[str], str]] = field(default_factory=dict)
    _first: dict[tuple[str, Kind], Read] = field(default_factory=dict)
    known: Known = field(default_factory=dict)
    _weights: dict[tuple[int, int], Array] = field(default_factory=dict)
    """How often each item is drawn, by stream and count of items: 0.1 s to draw, and the same for all groups."""

    def effects(self, outcome: Outcome | Price) -> dict[str, Effect]:
        """Return each configuration's effect, of those whose runs could be read; computed once."""
        if outcome.key not in self._effects:
            computed = self._priced(outcome) if isinstance(outcome, Price) else self._estimated(outcome)
            self._effects[outcome.key] = computed
        return self._effects[outcome.key]

    def sets(self, outcome: Outcome | Price) -> list[list[Effect]]:
        """Return the effects in sets that may be compared: of one probe and version of it."""
        found = self.effects(outcome).values()
        return [[one for one in found if one.kind == kind] for kind in dict.fromkeys(one.kind for one in found)]

    def of(self, runs: pd.DataFrame, outcome: Outcome) -> Effect | None:
        """Return the effect of any runs of the block, each counting as a seed; None where none could be read."""
        label = self._labels(outcome).get(_having(runs, outcome))
        if label is not None:
            return self.effects(outcome).get(label)
        beside = self._read(outcome).values()
        alone = self._sample(str(runs[UNIT].iloc[0]), runs, outcome)
        if alone is None:
            return None
        (found,) = _effects([alone], outcome, [one.drawn for one in beside if one.kind == alone.kind])
        return found

    def _labels(self, outcome: Outcome) -> dict[frozenset[str], str]:
        """Return the configuration of each set of run folders that have a number for an outcome."""
        if outcome.key not in self._folders:
            known = {_having(runs, outcome): label for label, runs in self.configurations.items()}
            self._folders[outcome.key] = known
        return self._folders[outcome.key]

    def _estimated(self, outcome: Outcome) -> dict[str, Effect]:
        read = self._read(outcome)
        sets = [[one for one in read.values() if one.kind == kind] for kind in {one.kind: 0 for one in read.values()}]
        found = {one.label: one for some in sets for one in _effects(some, outcome)}
        return {label: found[label] for label in read}

    def _priced(self, price: Price) -> dict[str, Effect]:
        gains, costs = self.effects(GAIN), self.effects(price.per)
        return {label: _price(gains[label], costs[label], price) for label in gains if label in costs}

    def _read(self, outcome: Outcome) -> dict[str, _Sample]:
        if outcome.key not in self._samples:
            found = ((label, self._sample(label, runs, outcome)) for label, runs in self.configurations.items())
            self._samples[outcome.key] = {label: one for label, one in found if one is not None}
        return self._samples[outcome.key]

    def _sample(self, label: str, runs: pd.DataFrame, outcome: Outcome) -> _Sample | None:
        """Read a group's runs; one whose items are not those of the runs before it is left out and said."""
        runs = runs[runs[outcome.column].notna()] if outcome.column in runs else runs.iloc[:0]
        kinds = runs[list(outcome.same)].drop_duplicates() if outcome.same else runs.iloc[:1, :0]
        if len(kinds) != 1:
            if len(kinds):
                self.say(f"{label}: {outcome.key} was measured by different probes or versions of one")
            return None
        kind: Kind = tuple(None if pd.isna(value) else value for value in kinds.iloc[0])
        read = {run["folder"]: one for run in runs.to_dict("records") if (one := self._one(run, outcome, kind))}
        if not read:
            return None
        first, kept = self._first[outcome.key, kind], runs[runs["folder"].isin(list(read))]
        return _Sample(label, kept, kind, first, _drawn([*read.values()], self._drawn_items(first, outcome.stream)))

    def _drawn_items(self, first: Read, stream: int) -> Array:
        count = len(first.after)
        if (stream, count) not in self._weights:
            self._weights[stream, count] = drawn_items(count, draws_of(count), stream, first.clusters)
        return self._weights[stream, count]

    def _one(self, run: Run, outcome: Outcome, kind: Kind) -> Read | None:
        try:
            found = self._of_run(run, outcome)
            first = self._first.setdefault((outcome.key, kind), found)
            if not (found.asked.equals(first.asked) and found.statistic is first.statistic):
                raise AnalysisError(f"{run['folder']}: answered other items than the runs before it; it is left out")
        except HarnessError as error:
            self.say(str(error))
            return None
        return found

    def _of_run(self, run: Run, outcome: Outcome) -> Read:
        key = str(run["folder"]), outcome.key
        if key not in self.known:
            self.known[key] = outcome.read(run)
        return self.known[key]

    def say(self, line: str) -> None:
        """Add a problem once."""
        if line not in self.problems:
            self.problems.append(line)


def _having(runs: pd.DataFrame, outcome: Outcome) -> frozenset[str]:
    """Return the folders of the runs that have a number for an outcome."""
    return frozenset(runs.loc[runs[outcome.column].notna(), "folder"] if outcome.column in runs else ())


def _drawn(read: list[Read], weights: Array) -> Resampled:
    """Return the outcome of each run, of all items and in each draw of them."""
    statistic, after = read[0].statistic, np.stack([one.after for one in read])
    before = [one.before for one in read if one.before is not None]
    if not before:
        return resampled(after, statistic, weights)
    return resampled_change(np.stack(before), after, statistic, weights)


def _effects(some: list[_Sample], outcome: Outcome, beside: Sequence[Resampled] = ()) -> list[Effect]:
    """Return the effects of samples of one kind, their seeds' variances moderated with those `beside`."""
    read, count = some[0].first, len(some[0].first.after)
    found = estimates([one.drawn for one in some], read.bounds, count, beside)
    return [_effect(one, estimate, outcome, read.bounds) for one, estimate in zip(some, found, strict=True)]


def _effect(one: _Sample, estimate: Estimate, outcome: Outcome, levels: tuple[float, float]) -> Effect:
    run, low, high = one.runs.iloc[0].to_dict(), *levels
    limits = (levels if one.first.before is None else (low - high, high - low)), high - low
    named = outcome.title(run), outcome.higher_is_better(run), outcome.verb
    facts = *named, estimate, len(one.first.after), one.first.units, *limits
    kind = one.first.graded, one.kind, outcome.relative
    return Effect(one.label, one.runs, *facts, *kind, outcome.recorded(run), one.drawn.scores)


def _price(gain: Effect, cost: Effect, price: Price) -> Effect:
    divided = quotient(gain.estimate, cost.estimate, price.unit)
    unbounded, unknown = (-math.inf, math.inf), (math.nan, math.nan)
    found = replace(
        gain, estimate=divided, bounds=unbounded, most=math.inf, recorded=unknown, relative=True, graded=False
    )
    scores = gain.scores / (cost.estimate.value / price.unit)
    return replace(found, title=price.key.replace("_", " "), scores=scores)


@dataclass(frozen=True)
class Effects:
    """The blocks of a table of runs, and what is not fair about comparing them."""

    blocks: tuple[Block, ...]
    chosen: pd.DataFrame
    """Runs that are done, at the rate that was chosen, as :func:`analysis.effects.fairness.fair` returns them."""
    warnings: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Return what could not be read of the outcomes that were asked for until now, a line each."""
        return tuple(dict.fromkeys(line for block in self.blocks for line in block.problems))

    def of(self, runs: pd.DataFrame, outcome: Outcome) -> Effect | None:
        """Return the effect of some runs of one block, None where they are of none."""
        if runs.empty or runs["foreign"].any():  # which have no items
            return None
        block = self._places.get(_place(runs.iloc[0]))
        return None if block is None else block.of(runs, outcome)

    @cached_property
    def _places(self) -> dict[tuple[str, ...], Block]:
        return {one.place: one for one in self.blocks}


def _place(run: pd.Series) -> tuple[str, ...]:  # type: ignore[type-arg]
    return tuple(str(run[name]) for name in BLOCK)


def effects_of(table: pd.DataFrame, known: Known | None = None) -> Effects:
    """Return the effects of the runs of a tidy table; failed ones tell at which rates seeds diverged.

    What is read of runs is looked up in `known` and added to it.
    """
    picked = fair(table)
    return Effects(tuple(_blocks(table, picked.chosen, {} if known is None else known)), *picked)


def _blocks(table: pd.DataFrame, chosen: pd.DataFrame, known: Known) -> Iterator[Block]:
    chosen = narrow(chosen)
    for where, rows in blocks(narrow(table[(table["status"] == "done") & ~table["foreign"]])):
        kept = chosen[chosen["folder"].isin(rows["folder"])]
        named = {str(label): runs.reset_index(drop=True) for label, runs in kept.groupby(UNIT, sort=False)}
        yield Block(where, _place(rows.iloc[0]), named, known=known)
