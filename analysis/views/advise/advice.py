"""Advice on one model and task: who satisfies the constraints, who is equivalent, what it costs, what is open.

The one that the others are held against is chosen by the validation split among those that no other is shown to be
better than; the test split decides nothing but verdicts (:mod:`analysis.effects.comparisons`). A cheaper
configuration is advised in its place only where it is shown to be within the margin, never where it is undecided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from analysis.advise import Asked
from analysis.effects.blocks import Block, Effects
from analysis.effects.comparisons import Comparison
from analysis.effects.outcomes import LEARNING
from analysis.effects.verdicts import Verdict
from analysis.views.advise import experiments, matrix
from analysis.views.advise.constraints import Amount, Check, State, Subject, checks, fits, planned, serves, worst
from analysis.views.advise.experiments import Commands, Experiment
from harness.errors import HarnessError
from harness.storage.record import Status

SHOWN = 3
"""Experiments that are named of each kind, those that need the least first."""
COSTS = ("seconds", "memory", "parameters")


@dataclass(frozen=True)
class Candidate:
    """A configuration, what it reaches, and what the constraints say of it."""

    label: str
    state: State
    checks: tuple[Check, ...]
    score: Amount
    """On the test split, over its seeds."""
    validation: float
    """Mean over its seeds, NaN where there is none."""
    higher_is_better: bool
    seeds: int
    forgetting: Amount | None
    """More is worse."""
    seconds: Amount | None
    """Of training, as measured."""
    memory: Amount | None
    """Bytes at the peak of training: as planned where a card was named, else as measured."""
    parameters: Amount | None

    def why(self, state: State) -> str:
        """Return what the constraints of a state say, in a line."""
        return "; ".join(one.said for one in self.checks if one.state is state)


@dataclass(frozen=True)
class Advice:
    """What may be advised on one model and task."""

    where: str
    asked: dict[str, str]
    margin: float
    advised: str | None
    """The cheapest of `leader` and those within the margin of it; None where nothing may satisfy the constraints."""
    leader: str | None
    """The best by validation of those that satisfy the constraints and that none of them is shown to surpass."""
    equivalent: tuple[str, ...]
    """Shown to be within the margin of `leader`."""
    undecided: tuple[str, ...]
    worse: tuple[str, ...]
    better: tuple[str, ...]
    """Shown to be better than `leader`; whether they satisfy the constraints is not shown."""
    forget_less: tuple[str, ...]
    """Of `equivalent` and `undecided`, those shown to forget less than `leader`."""
    cheapest: dict[str, str]
    """Cost → the cheapest of `leader` and `equivalent`."""
    candidates: tuple[Candidate, ...]
    possible: dict[str, str]
    """Configuration → why it is not known whether it satisfies the constraints, in a line."""
    excluded: dict[str, str]
    """Configuration → by which constraint, in a line."""
    untried: tuple[str, ...]
    """Methods that no run was made with."""
    experiments: tuple[Experiment, ...]
    searched: bool
    """Whether every learning rate was searched for."""


@dataclass(frozen=True)
class Pairs:
    """The verdicts of one block, in scores and in forgetting."""

    found: dict[frozenset[str], Comparison]
    forgot: dict[frozenset[str], Comparison]

    def ahead(self, one: str, other: str) -> bool:
        """Return whether `one` is shown to be better than `other` by an amount that may matter."""
        found = self.found.get(frozenset({one, other}))
        return found is not None and found.ahead == one and not found.within_margin

    def equal(self, one: str, other: str) -> bool:
        """Return whether two are shown to be within the margin, also where one is ahead by less than it."""
        found = self.found.get(frozenset({one, other}))
        return found is not None and (found.result is Verdict.equivalent or bool(found.ahead and found.within_margin))

    def forgets_less(self, one: str, other: str) -> bool:
        """Return whether `one` is shown to forget less than `other`."""
        found = self.forgot.get(frozenset({one, other}))
        return found is not None and found.ahead == one


def advices(
    table: pd.DataFrame, effects: Effects, asked: Asked, scored: Sequence[Comparison], forgot: Sequence[Comparison]
) -> list[Advice]:
    """Return the advice on each model and task of the effects; the comparisons are those of every two of them."""
    with Commands() as commands:
        chosen = [one for one in effects.blocks if one.effects(LEARNING)]
        return [_Case(table, one, asked, pairs_of(one, scored, forgot)).advice(commands) for one in chosen]


def pairs_of(block: Block, scored: Sequence[Comparison], forgot: Sequence[Comparison]) -> Pairs:
    """Return the comparisons of one block by their two sides."""
    found, forgotten = (
        {frozenset({one.first, one.second}): one for one in some if one.where == block.where}
        for some in (scored, forgot)
    )
    return Pairs(found, forgotten)


@dataclass(frozen=True)
class _Case:
    """One model and task, what is asked for, and what was found of its configurations."""

    table: pd.DataFrame
    block: Block
    asked: Asked
    pairs: Pairs

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        return {label: Subject(label, self.block) for label in self.block.effects(LEARNING)}

    @cached_property
    def candidates(self) -> dict[str, Candidate]:
        return {label: candidate(one, self.asked) for label, one in self.subjects.items()}

    @cached_property
    def able(self) -> list[Candidate]:
        """Those that satisfy the constraints; where none is shown to, those that may."""
        return self.of(State.satisfied) or self.of(State.possible)

    @cached_property
    def leader(self) -> Candidate | None:
        return lead(self.able, self.pairs)

    def of(self, state: State) -> list[Candidate]:
        return [one for one in self.candidates.values() if one.state is state]

    @cached_property
    def rivals(self) -> list[str]:
        return [one.label for one in self.able if one is not self.leader]

    @property
    def equivalent(self) -> tuple[str, ...]:
        return self._rivals(self.pairs.equal)

    @property
    def worse(self) -> tuple[str, ...]:
        return self._rivals(lambda name, leader: self.pairs.ahead(leader, name))

    @property
    def undecided(self) -> tuple[str, ...]:
        return tuple(name for name in self.rivals if name not in (*self.equivalent, *self.worse))

    @property
    def better(self) -> tuple[str, ...]:
        maybe = [one.label for one in self.of(State.possible)]
        return tuple(name for name in maybe if self.leader and self.pairs.ahead(name, self.leader.label))

    def _rivals(self, holds: Callable[[str, str], bool]) -> tuple[str, ...]:
        if self.leader is None:
            return ()
        return tuple(name for name in self.rivals if holds(name, self.leader.label))

    def advice(self, commands: Commands) -> Advice:
        """Return the advice; commands are made for the experiments that it names."""
        leader = None if self.leader is None else self.leader.label
        group = [self.candidates[name] for name in (leader, *self.equivalent) if name is not None]
        cheapest = {cost: least for cost in COSTS if (least := _least(group, cost))}
        untried = tuple(_untried(self))
        close = (*self.equivalent, *self.undecided)
        return Advice(
            where=" on ".join(self.block.place[:2]),
            asked=self.asked.said,
            margin=self.asked.margin,
            advised=cheapest.get(primary(self.asked), leader) if leader else None,
            leader=leader,
            equivalent=self.equivalent,
            undecided=self.undecided,
            worse=self.worse,
            better=self.better,
            forget_less=tuple(name for name in close if leader and self.pairs.forgets_less(name, leader)),
            cheapest=cheapest,
            candidates=tuple(self.candidates.values()),
            possible={one.label: one.why(State.possible) for one in self.of(State.possible)},
            excluded=dict(_excluded(self)),
            untried=untried,
            experiments=tuple(_experiments(self, untried, commands)),
            searched=all(one.searched for one in self.pairs.found.values()),
        )


def primary(asked: Asked) -> str:
    """Return the cost that decides what is cheapest: the memory where a card alone is asked about, else the time."""
    return "memory" if asked.gpu is not None and asked.seconds is None else "seconds"


def candidate(subject: Subject, asked: Asked) -> Candidate:
    """Return a configuration with what the constraints say of it."""
    found = tuple(checks(subject, asked))
    effect, runs = subject.block.effects(LEARNING)[subject.label], subject.block.configurations[subject.label]
    return Candidate(
        label=subject.label,
        state=worst(found),
        checks=found,
        score=Amount(effect.title, effect.estimate.value, *effect.interval()),
        validation=float(runs["validation"].astype("float64").mean()),
        higher_is_better=effect.higher_is_better,
        seeds=len(effect.runs),
        forgetting=subject.forgetting,
        seconds=subject.cost("seconds"),
        memory=_memory(subject, asked),
        parameters=subject.cost("parameters"),
    )


def _memory(subject: Subject, asked: Asked) -> Amount | None:
    plan = subject.plan(asked) if asked.gpu is not None else None
    if plan is None or isinstance(plan, str):
        return subject.cost("memory")
    peak = float(plan.peak_bytes)
    return Amount("planned memory", peak, peak, peak)


def lead(able: Sequence[Candidate], pairs: Pairs) -> Candidate | None:
    """Return the best by validation among those that no other is shown to be better than; None of none.

    Where no validation score is at hand, the mean over the seeds on the test split stands in for it.
    """
    front = [one for one in able if not any(pairs.ahead(other.label, one.label) for other in able)]
    known = all(math.isfinite(one.validation) for one in front)

    def rank(one: Candidate) -> tuple[float, str]:
        value = one.validation if known else one.score.value
        return (value if one.higher_is_better else -value), one.label

    return max(front, key=rank, default=None)


def _least(group: Sequence[Candidate], cost: str) -> str | None:
    known = [(found.value, one.label) for one in group if (found := getattr(one, cost)) is not None]
    return min(known)[1] if known else None


def _excluded(case: _Case) -> Iterator[tuple[str, str]]:
    """Yield each configuration that is out, and why; of those without a result the reason that their record gives."""
    for one in case.candidates.values():
        if one.state is State.violated:
            yield one.label, one.why(State.violated)
    rows = _here(case)
    done = {str(label) for label in rows.loc[rows["status"] == Status.done.value, "label"]}
    for row in rows[rows["status"] != Status.done.value].drop_duplicates("label").to_dict("records"):
        if row["label"] not in done:
            yield str(row["label"]), f"{str(row['status']).replace('_', ' ')}: {row['reason']}"


def _here(case: _Case) -> pd.DataFrame:
    model, task = case.block.place[:2]
    return case.table[(case.table["model"] == model) & (case.table["task"] == task)]


def _untried(case: _Case) -> Iterator[str]:
    """Yield the methods that no run here was made with and that no constraint excludes which needs no run."""
    tried = set(_here(case)["method"].astype(str))
    try:
        like = next(iter(case.subjects.values())).config
    except HarnessError:  # a record of a version that knew other settings
        return
    for name, method in matrix.registered():
        if name not in tried:
            config = replace(like, method=method)
            found = [serves(config, case.asked.serve)] if case.asked.serve is not None else []
            found += [fits(planned(config, case.asked), case.asked)] if case.asked.gpu is not None else []
            if worst(found) is not State.violated:
                yield name


def _experiments(case: _Case, untried: Sequence[str], commands: Commands) -> Iterator[Experiment]:
    """Yield what would settle what is open: constraints first, then verdicts, then what nobody tried."""
    found = [
        experiments.below(case.subjects[one.label], one.forgetting, case.asked.forget, commands)
        for one in case.of(State.possible)
        if one.forgetting is not None and case.asked.forget is not None and _crosses(one)
    ]
    yield from sorted(found, key=lambda one: not one.commands)[:SHOWN]
    if case.leader is None:
        return
    sides = case.leader.label, case.undecided
    compared = [(case.pairs.found.get(frozenset({sides[0], name})), name) for name in sides[1]]
    known = [(one, name) for one, name in compared if one is not None]
    for pair, name in sorted(known, key=lambda found: (found[0].needed, found[1]))[:SHOWN]:
        yield experiments.between(pair, [case.subjects[sides[0]], case.subjects[name]], commands)
    if untried:
        command = commands.others(case.subjects[sides[0]], list(untried))
        question = f"do methods without a run do better: {', '.join(untried)}"
        yield Experiment(question, f"{experiments.FEW} seeds each at least", (command,))


def _crosses(one: Candidate) -> bool:
    """Return whether the interval of what a configuration forgets crosses the limit."""
    open_ = [check.constraint for check in one.checks if check.state is State.possible]
    return "forget" in open_
