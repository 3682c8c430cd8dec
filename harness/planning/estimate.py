"""What a run will hold and how long its training will take on this machine, estimated and kept for the next asking."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import RunConfig
from harness.errors import HarnessError
from harness.identity import digest, model_identity, plain, task_identity
from harness.planning.cards import VERSION, between
from harness.storage.assets import cache_root
from harness.storage.files import write_json

if TYPE_CHECKING:
    from harness.objectives.base import Features

STEP = 1400
"""Calls of operations that take as long as what a step does besides: the Trainer's own work, collating, logging.

Training MiniLM's head alone, 70 ms a step, has 52 ms of operations; a call takes 13 µs (one thread of a Xeon).
"""


@dataclass(frozen=True)
class Estimate:
    """A run's training as it is planned."""

    peak_bytes: int
    """Over items as long as the task allows."""
    steps: int
    step_seconds: float
    """Of a step over items of the task's mean length."""

    @property
    def seconds(self) -> float:
        """Return the seconds of all steps; evaluation and probes come on top."""
        return self.steps * self.step_seconds


def estimate(config: RunConfig) -> Estimate:
    """Return a run's estimate, from where an earlier command kept it, else planned now, which takes seconds.

    Raises a :class:`HarnessError` in one line where the run cannot be planned.
    """
    found = kept(config)
    if found is None:
        found = _planned(config)
        file = _file(config)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(found))
    return found


def kept(config: RunConfig) -> Estimate | None:
    """Return a run's estimate where it was planned before, on this machine and by these settings."""
    try:
        return Estimate(**json.loads(_file(config).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, HarnessError):  # never planned, by another version, or a missing model
        return None


def _file(config: RunConfig) -> Path:
    """Return where the estimate is kept: by what trains, not by its seed and rate, on which no time depends."""
    from harness import runtime

    train = plain(config.train) | {"learning_rate": None, "learning_rate_factor": None}
    method = plain(config.method) | {"name": config.method.name, "learning_rate": None}
    here = runtime.resolve(config).describe()
    parts = [VERSION, model_identity(config.model), task_identity(config.task), method, train, here]
    return cache_root(config.cache_dir) / "plans" / f"{digest(parts, 20)}.json"


def _planned(config: RunConfig) -> Estimate:
    from harness import runtime
    from harness.execution import session
    from harness.planning.machine import this_machine
    from harness.planning.plan import Planner
    from harness.training.order import steps_of

    here = runtime.resolve(config)
    features = session.prepare(config).features
    machine = this_machine(here, cache_root(config.cache_dir))
    planner = Planner(config, machine, cuda=here.cuda)
    peak, besides = planner.plan().peak_bytes, STEP * machine.launch
    step = planner.step_seconds(typical(features)) + besides * config.train.gradient_accumulation_steps
    return Estimate(peak, steps_of(config.train, len(features)), step)


def typical(features: list[Features]) -> Features:
    """Return the item whose length is nearest to the mean: batches are made of items of about the same length."""
    mean = sum(item["length"] for item in features) / len(features)
    return min(features, key=lambda item: abs(item["length"] - mean))


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def described(config: RunConfig) -> tuple[str, str]:
    """Return a run's peak in GiB and its training's time with a range, or ``-`` and why there is none."""
    try:
        found = estimate(config)
    except HarnessError as error:
        return "-", str(error)
    ends = " to ".join(map(duration, between(found.seconds)))
    return f"{found.peak_bytes / 2**30:.2f}", f"about {duration(found.seconds)} ({ends})"
