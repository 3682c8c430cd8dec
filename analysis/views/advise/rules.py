"""Advice without runs: plans, capabilities, and rules of thumb that are marked as such."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from analysis.advise import Asked
from analysis.views.advise import matrix
from analysis.views.advise.constraints import GIB, Check, State, duration, fits, serves, worst
from harness.errors import HarnessError, NotApplicable
from harness.identity import plain
from harness.plan import configurations

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.planning.plan import Plan

RULES = (
    "Memory is short: QLoRA, a LoRA over a base in 4 bits.",
    "Memory is there and quality comes first: full fine-tuning.",
    "Otherwise, and for several tasks on one base: LoRA, or another adapter that can be swapped.",
)
"""What is widely said; nothing here measured it."""
MARK = "rule of thumb, not measured here"
SEEDS = "0,1,2"
ADVISE = "python -m analysis.advise runs/"


@dataclass(frozen=True)
class Planned:
    """A method's plan, and what the constraints say of it."""

    method: str
    state: State
    checks: tuple[Check, ...]
    peak_bytes: int | None
    reserved_bytes: int | None
    trainable: int | None
    problem: str | None

    @property
    def why(self) -> str:
        """Return what keeps it out, or what is not known."""
        return self.problem or "; ".join(one.said for one in self.checks if one.state is self.state)


def text(asked: Asked) -> str:
    """Return what can be said without runs: rules of thumb, plans, and the command that would tell."""
    overrides, found = _overrides(asked), _found(asked)
    lines = ["No runs were given, so nothing here is a measured score or what a method forgets.", ""]
    lines += [f"{MARK}: {rule}" for rule in RULES]
    lines += ["", f"planned{_of(overrides)}, least memory first:", *map(line, found)]
    if asked.forget is not None:
        lines += ["", f"{asked.said['forget']}: what a method forgets takes runs to know"]
    words = " ".join(shlex.quote(word) for word in asked.said.values())
    return "\n".join([*lines, "", "to know instead:", f"  {_training(asked, found)}", f"  {ADVISE} {words}".rstrip()])


def as_json(asked: Asked) -> str:
    """Return the same as JSON."""
    found = _found(asked)
    described = {"advice": [], "asked": asked.said, "rules_of_thumb": RULES, "command": _training(asked, found)}
    plans = [plain(asdict(one)) | {"why": one.why} for one in found]
    return json.dumps(described | {"plans": plans}, ensure_ascii=False, indent=1)


def _overrides(asked: Asked) -> list[str]:
    return [f"{key}={value}" for key, value in (("model", asked.model), ("task", asked.data)) if value is not None]


def _found(asked: Asked) -> list[Planned]:
    return sorted(plans(_overrides(asked), asked), key=lambda one: (one.peak_bytes or math.inf, one.method))


def _training(asked: Asked, found: list[Planned]) -> str:
    return command(_overrides(asked), [one.method for one in found if one.state is not State.violated])


def plans(overrides: list[str], asked: Asked) -> Iterator[Planned]:
    """Yield the plan of every method at its defaults, rank 8 where it has one."""
    methods = ",".join(name for name, _ in matrix.registered())
    for _, config in configurations([*overrides, f"method={methods}", "rank=8"]):
        yield planned(config, asked)


def planned(config: RunConfig, asked: Asked) -> Planned:
    """Return a configuration's plan, judged by the constraints that need no run."""
    from harness.planning.plan import Planner

    name = config.method.name
    try:
        plan = Planner(config, asked.gpu).plan()
    except NotApplicable as error:
        return Planned(name, State.violated, (), None, None, None, f"not applicable: {error}")
    except HarnessError as error:
        return Planned(name, State.possible, (), None, None, None, f"cannot be planned: {error}")
    found = tuple(judged(config, plan, asked))
    sizes = plan.peak_bytes, plan.reserved_bytes, plan.trainable
    return Planned(name, worst(list(found)), found, *sizes, None)


def judged(config: RunConfig, plan: Plan, asked: Asked) -> Iterator[Check]:
    """Yield what the constraints say that a plan or a trial can tell."""
    if asked.gpu is not None:
        yield fits(plan, asked)
    if asked.serve is not None:
        yield serves(config, asked.serve)
    if asked.seconds is not None:
        yield _time(config, plan, asked.seconds)


def _time(config: RunConfig, plan: Plan, most: float) -> Check:
    steps = config.train.max_steps
    if plan.seconds is None or steps <= 0:
        lacks = "gpu=<a card by name>" if plan.seconds is None else "train.max_steps"
        return Check("train", State.possible, f"its time is not known without {lacks}")
    low, high = (steps * one for one in plan.seconds)
    state = State.satisfied if high <= most else State.possible if low <= most else State.violated
    return Check("train", state, f"plans {duration(low)} to {duration(high)} ({steps} steps) against {duration(most)}")


def line(one: Planned) -> str:
    """Return a method as a line: what it needs, and whether the constraints are satisfied."""
    if one.peak_bytes is None or one.trainable is None or one.reserved_bytes is None:
        return f"  {one.method:<12}{one.why}"
    sizes = f"{one.peak_bytes / GIB:8.2f} GiB, trains {one.trainable:,}"
    words = {State.satisfied: "satisfies all", State.possible: "may", State.violated: "excluded"}
    why = "" if one.state is State.satisfied else f": {one.why}"
    said = f"; {words[one.state]}{why}" if one.checks else ""
    return f"  {one.method:<12}{sizes}{said}"


def command(overrides: list[str], methods: list[str]) -> str:
    """Return the command that trains these methods, each at a searched rate, over three seeds."""
    swept = [f"method={','.join(methods)}", f"seed={SEEDS}", "search=learning_rate"]
    return " ".join(["python -m harness.run -m", *map(shlex.quote, [*overrides, *swept])])


def _of(overrides: list[str]) -> str:
    return f" for {' '.join(overrides)}" if overrides else ""
