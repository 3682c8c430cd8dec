"""Whether a configuration satisfies what is asked for: surely, by its estimate alone, or not; and why, in a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.advise import Asked, Serve
from analysis.effects.blocks import Block, Effect
from analysis.effects.outcomes import COSTS, FORGETTING
from analysis.records import record
from analysis.views.advise import matrix
from analysis.views.table.writing import number
from harness.errors import HarnessError, NotApplicable

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.planning.plan import Plan

GIB = 2**30
WORDS = {Serve.merged: "be merged into a plain model", Serve.adapter: "be swapped on one base"}


class State(StrEnum):
    """Whether a constraint is satisfied."""

    satisfied = "satisfied"
    """The whole interval lies within it."""
    possible = "possible"
    """The estimate does, and an end of the interval does not; or nobody knows."""
    violated = "violated"


@dataclass(frozen=True)
class Check:
    """What one constraint says of one configuration."""

    constraint: str
    state: State
    said: str


@dataclass(frozen=True)
class Amount:
    """An estimate with its interval."""

    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as ``.442 [.349, .538]``; an interval without width is left out."""
        value, low, high = (number(one) for one in (self.value, self.low, self.high))
        return value if low == high == value or not low else f"{value} [{low}, {high}]"


@dataclass
class Subject:
    """A configuration that is judged: one of its records, its costs, what it forgot."""

    label: str
    block: Block
    plans: dict[str, Plan | str] = field(default_factory=dict)
    """Kept between calls, by card: a plan takes seconds."""

    @cached_property
    def record(self) -> dict[str, Any]:
        """Return the record of its first seed."""
        return record(Path(str(self.block.configurations[self.label]["folder"].iloc[0])))

    @cached_property
    def config(self) -> RunConfig:
        """Return the configuration of its first seed."""
        from harness.execution.reload import config_of

        return config_of(self.record)

    @property
    def forgetting(self) -> Amount | None:
        """Return what it forgot, more is worse, in its probe's unit."""
        found = self.block.effects(FORGETTING).get(self.label)
        if found is None:
            return None
        sign = -1 if found.higher_is_better else 1
        low, high = sorted(sign * end for end in found.interval())
        return Amount(found.title, sign * found.estimate.value, low, high)

    def cost(self, name: str) -> Amount | None:
        """Return a measured cost: parameters, seconds or memory (bytes)."""
        found = self.block.effects(COSTS[name]).get(self.label)
        return None if found is None else Amount(name, found.estimate.value, *_ends(found))

    def plan(self, asked: Asked) -> Plan | str:
        """Return its plan on the card, or why it has none."""
        assert asked.gpu is not None
        if asked.gpu.name not in self.plans:
            try:
                self.plans[asked.gpu.name] = planned(self.config, asked)
            except HarnessError as error:  # a record of another version
                self.plans[asked.gpu.name] = str(error)
        return self.plans[asked.gpu.name]


def _ends(found: Effect) -> tuple[float, float]:
    """Return the interval of a cost; a single run's has no width that is known."""
    low, high = found.interval()
    return (low, high) if math.isfinite(low) else (found.estimate.value, found.estimate.value)


def planned(config: RunConfig, asked: Asked) -> Plan | str:
    """Return a configuration's plan on the card, or why there is none in a line."""
    from harness.planning.plan import Planner

    try:
        return Planner(config, asked.gpu).plan()
    except NotApplicable as error:
        return f"not applicable: {error}"
    except HarnessError as error:
        return str(error)


def checks(subject: Subject, asked: Asked) -> Iterator[Check]:
    """Yield what each constraint says of a configuration; one that this version cannot judge may be satisfied."""
    asks: dict[str, Callable[[], Check]] = {}
    if asked.forget is not None:
        asks["forget"] = partial(forgets, subject, asked.forget)
    if asked.seconds is not None:
        asks["train"] = partial(trains_within, subject, asked)
    if asked.serve is not None:
        asks["serve"] = lambda: serves(subject.config, asked.serve or Serve.merged)
    if asked.gpu is not None:
        asks["gpu"] = lambda: fits(subject.plan(asked), asked)
    for name, ask in asks.items():
        try:
            yield ask()
        except HarnessError as error:  # a record of another version, a model that is not at hand
            yield Check(name, State.possible, f"cannot be judged: {error}")


def forgets(subject: Subject, most: float) -> Check:
    """Return whether what is forgotten lies within the limit: the interval's worse end counts."""
    found = subject.forgetting
    if found is None:
        return Check("forget", State.possible, "what it forgets was not measured")
    usual = max(subject.block.sets(FORGETTING), key=len)
    if all(one.label != subject.label for one in usual):
        others = f"the limit is taken for {usual[0].title}, which most runs measured"
        return Check("forget", State.possible, f"what it forgets was measured by another probe or version; {others}")
    return Check("forget", within(found, most), f"forgets {found} ({found.name}) against {number(most)}")


def within(found: Amount, most: float) -> State:
    """Return whether an amount lies within a limit: its interval, its estimate alone, or not."""
    if found.value > most or math.isnan(found.value):
        return State.violated
    return State.satisfied if found.high <= most else State.possible


def trains_within(subject: Subject, asked: Asked) -> Check:
    """Return whether training ends in time: as planned on a card whose speed is known, else as measured."""
    assert asked.seconds is not None
    if asked.gpu is not None and asked.gpu.teraflops is not None and not _measured_on(subject, asked.gpu.name):
        return _planned_time(subject.plan(asked), int(subject.record.get("steps") or 0), asked)
    found = subject.cost("seconds")
    if found is None:
        return Check("train", State.possible, "how long it trains was not measured")
    here = "" if _measured_here(subject) else f" on {device(subject.record)}, another machine than this"
    state = within(found, asked.seconds)
    if here and state is State.satisfied:
        state = State.possible
    return Check("train", state, f"trains {span(found)}{here} against {duration(asked.seconds)}")


def device(record: Mapping[str, Any]) -> str:
    """Return what a run was trained on: its GPU, else its processor."""
    machine = record.get("machine") or {}
    return str(machine.get("gpu") or machine.get("processor") or "an unknown machine")


def _measured_here(subject: Subject) -> bool:
    """Return whether a run was trained on a processor and GPU as this machine has."""
    from harness.runtime import resolve

    try:
        then, now = subject.record.get("machine") or {}, resolve(subject.config).machine()
    except HarnessError:  # what the run needs, such as fp16, is not to be had here
        return False
    return all(then.get(key) == now.get(key) for key in ("processor", "gpu"))


def _measured_on(subject: Subject, name: str) -> bool:
    """Return whether a run was trained on a card of this name, such as ``l40s`` or ``a100_80``."""
    where = device(subject.record).lower()
    return name.lower().partition("_")[0] in where.replace("-", " ").split()


def _planned_time(plan: Plan | str, steps: int, asked: Asked) -> Check:
    assert asked.seconds is not None and asked.gpu is not None
    if isinstance(plan, str):
        return Check("train", State.possible, f"its time cannot be planned: {plan}")
    if plan.seconds is None or not steps:
        return Check("train", State.possible, "its number of steps, and so its time, is not known")
    low, high = (steps * one for one in plan.seconds)
    state = within(Amount("seconds", low, low, high), asked.seconds)
    ends = f"{duration(low)} to {duration(high)}"
    return Check("train", state, f"plans {ends} on {asked.gpu.name} ({steps} steps) against {duration(asked.seconds)}")


def fits(plan: Plan | str, asked: Asked) -> Check:
    """Return whether the training fits into the card's memory."""
    from harness.planning.gpu import CONTEXT
    from harness.planning.plan import Fit

    assert asked.gpu is not None
    if isinstance(plan, str):
        state = State.violated if plan.startswith("not applicable") else State.possible
        return Check("gpu", state, plan if state is State.violated else f"it cannot be planned: {plan}")
    states = {Fit.yes: State.satisfied, Fit.tight: State.possible, Fit.no: State.violated}
    least, likes = (f"{(size + CONTEXT) / GIB:.2f}" for size in (plan.peak_bytes, plan.reserved_bytes))
    needs = f"{least} GiB" if least == likes else f"{least} to {likes} GiB"
    said = f"needs {needs} of {asked.gpu.memory / GIB:.1f} at batch {plan.batch_size} x {plan.length}"
    assert plan.fits is not None
    return Check("gpu", states[plan.fits], said)


def serves(config: RunConfig, serve: Serve) -> Check:
    """Return whether the trained model can be used as asked, by trial on a tiny model of its kind."""
    from analysis.views.advise.tiny import Kind

    kind = _kind(config)
    tried = matrix.of(config.method, Kind(kind), config.cache_dir)
    found = tried.mergeable if serve is Serve.merged else tried.swappable
    if found.fine is None:
        return Check("serve", State.possible, f"whether it can {WORDS[serve]} could not be tried: {found.why}")
    why = f": {found.why}" if found.why else ""
    can, state = ("can", State.satisfied) if found.fine else ("cannot", State.violated)
    return Check("serve", state, f"{can} {WORDS[serve]}{why}")


def _kind(config: RunConfig) -> str:
    """Return ``decoder`` or ``encoder``, by what the model's configuration says."""
    from harness.models import kind_of_architecture
    from harness.planning.architecture import architecture_of

    return kind_of_architecture(architecture_of(config.model, config.cache_dir), config.model)


def worst(found: Sequence[Check]) -> State:
    """Return whether all constraints are satisfied, some may be, or one is not."""
    states = {one.state for one in found}
    return next((one for one in (State.violated, State.possible) if one in states), State.satisfied)


def duration(seconds: float) -> str:
    """Return seconds as people write them: ``45 s``, ``12 min``, ``2.5 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size or (seconds >= size and seconds % size == 0):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def span(found: Amount) -> str:
    """Return a time with its interval."""
    value, low, high = (duration(max(one, 0.0)) for one in (found.value, found.low, found.high))
    return value if low == high else f"{value} [{low}, {high}]"
