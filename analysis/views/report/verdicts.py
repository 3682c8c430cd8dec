"""What may be concluded: configurations over seeds at their chosen rates, compared in pairs, weighed for forgetting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from analysis.advise import Asked
from analysis.effects.across import across
from analysis.effects.blocks import Effects, Known, effects_of
from analysis.effects.comparisons import UNSEARCHED, Comparison, compare, signed
from analysis.effects.outcomes import FORGETTING
from analysis.effects.pareto import pareto
from analysis.records.configurations import UNIT
from analysis.views.advise.advice import Advice, advices
from analysis.views.advise.words import sentences
from analysis.views.answer import Answer, answers
from analysis.views.table.grouped import DEFAULT, grouped, with_choice
from analysis.views.table.writing import shown, shown_across, shown_pareto

MOST_PAIRS = 300
"""Every two configurations are compared up to here; nobody reads more."""


class Words(NamedTuple):
    """A table as text."""

    head: list[str]
    rows: list[list[str]]


class Pair(NamedTuple):
    """A comparison as a row of the page."""

    first: str
    second: str
    where: str
    outcome: str
    shown: bool
    """Whether one of the two is ahead."""
    difference: str
    p: str
    said: str
    """What would decide it, or what a single seed cannot say."""
    counted: str


class Advised(NamedTuple):
    """Advice as the page shows it."""

    advice: Advice
    sentences: list[str]


@dataclass
class Verdicts:
    """What stands under Comparisons, and what is said against it."""

    answers: list[Answer] = field(default_factory=list)
    """What the page opens with."""
    advice: list[Advised] = field(default_factory=list)
    """Which configuration to use, under what constraints, and what is open."""
    across: Words | None = None
    """Mean ranks and interquartile means over tasks and models, where there are several."""
    over_seeds: Words | None = None
    pairs: list[Pair] = field(default_factory=list)
    forgotten: list[Pair] = field(default_factory=list)
    """The same pairs in what they forgot, a family of their own."""
    unsearched: str = ""
    """What the pairs rank where not every rate was searched for."""
    reference: str | None = None
    """The configuration that all others are compared with, where there are too many for every pair."""
    pareto: Words | None = None
    equal: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What is not fair about the comparisons."""
    problems: list[str] = field(default_factory=list)


def verdicts(
    table: pd.DataFrame, against: str | None = None, known: Known | None = None, asked: Asked | None = None
) -> Verdicts:
    """Return every verdict about the runs that are done; what could not be compared is among its problems.

    `asked` are the constraints that the advice is under, none unless given.
    """
    found = Verdicts()
    effects = effects_of(table, known)
    found.warnings = list(effects.warnings)
    if effects.chosen.empty:
        return found
    found.over_seeds = _over_seeds(effects, found.problems)
    found.reference = against or _reference(effects.chosen)
    made = compare(effects, found.reference)
    forgot = compare(effects, found.reference, outcome=FORGETTING)
    found.pairs, found.forgotten = ([_pair(one) for one in some.found] for some in (made, forgot))
    found.answers = answers(effects, made.found, forgot.found)
    if found.answers:
        advised = advices(table, effects, asked or Asked(), made.found, forgot.found)
        found.advice = [Advised(one, list(sentences(one))) for one in advised if len(one.candidates) > 1]
    if (several := across(effects)) is not None:
        found.across = _words(shown_across(several.rows))
    found.unsearched = UNSEARCHED if made.unsearched else ""
    _weigh(effects, found)
    found.problems = list(dict.fromkeys([*found.problems, *effects.problems]))
    return found


def _over_seeds(effects: Effects, problems: list[str]) -> Words:
    rows, more = grouped(effects.chosen, DEFAULT, effects)
    problems += more
    return _words(shown(with_choice(rows, effects.chosen), DEFAULT))


def _words(table: pd.DataFrame) -> Words:
    return Words([str(name) for name in table.columns], [[str(cell) for cell in row] for row in table.to_numpy()])


def _reference(chosen: pd.DataFrame) -> str | None:
    """Return the configuration that validation puts first, where there are too many for every pair; else None.

    Not the test split's first: it would be compared by the luck that made it so.
    """
    count = chosen[UNIT].nunique()
    if count * (count - 1) // 2 <= MOST_PAIRS:
        return None
    means = chosen.groupby(UNIT)["validation"].mean().dropna()
    if means.empty:
        return str(chosen[UNIT].iloc[0])
    return str((means if chosen["higher_is_better"].iloc[0] else -means).idxmax())


def _pair(one: Comparison) -> Pair:
    seeds = sorted({one.seeds_first, one.seeds_second})
    return Pair(
        first=one.first,
        second=one.second,
        where=one.where,
        outcome=one.outcome,
        shown=one.ahead is not None,
        difference=f"{signed(one.difference)} [{signed(one.low)}, {signed(one.high)}]",
        p=f"{one.p_family:.2g}",
        said="; ".join(filter(None, (one.caveat, one.note))),
        counted=f"{one.items:,} items, {' and '.join(map(str, seeds))} seed{'' if seeds == [1] else 's'}",
    )


def _weigh(effects: Effects, found: Verdicts) -> None:
    """Add which configurations are Pareto-optimal, and what equal learning costs."""
    made = pareto(effects)
    if made.rows.empty:
        return
    found.pareto = _words(shown_pareto(made.rows))
    for one in made.equal.itertuples():
        low, high = signed(float(one.low)), signed(float(one.high))
        interval = "" if low == "?" else f": {signed(float(one.difference))} [{low}, {high}]"
        found.equal.append(f"{one.first}, {one.second}: {one.verdict}{interval}")
