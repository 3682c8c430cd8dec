"""What the phases of a run share: its configuration, its folder, its tasks, and what they have found so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from harness.config import RunConfig
from harness.execution import session
from harness.execution.evaluate import Evaluator, Outcomes, evaluator
from harness.execution.heads import Head
from harness.execution.phases import Phases, phase_name
from harness.execution.session import Prepared
from harness.forgetting.measure import Probing
from harness.meter import Meter
from harness.models import Backbone
from harness.runtime import Runtime
from harness.storage.record import RunFolder
from harness.tracking import Tracker
from harness.training.train import Trained


@dataclass(frozen=True)
class Stage:
    """One task of a run: a run over one task has one stage, a sequence has several."""

    number: int
    name: str
    config: RunConfig
    """The run's, with this task alone."""
    prepared: Prepared
    folder: RunFolder
    """Where its checkpoints and history are: the run's own folder where there is one stage."""
    trained: Path
    """Where its trained state is kept: for the last stage the run's ``trained/``."""
    last: bool

    def asked(self, stage: Stage) -> dict[str, Any]:
        """Return what is answered of this task after `stage`: all held-out items after the last, else the test split.

        Only the last task's validation split is reported; the other scores make up R[i, j].
        """
        splits = self.config.held_out if self is stage and self.last else ("test",)
        return {split: self.prepared.questions[split] for split in splits}


@dataclass
class Run:
    """A run that is being worked on."""

    config: RunConfig
    runtime: Runtime
    folder: RunFolder
    tracker: Tracker
    meter: Meter = field(init=False)
    phases: Phases = field(init=False)
    stages: list[Stage] = field(default_factory=list)
    probing: Probing = field(init=False)
    base: dict[str, Outcomes] = field(default_factory=dict)
    """Outcomes of the untouched model by task."""
    heads: dict[str, Head] = field(default_factory=dict)
    """The head of each task: as it starts, once its stage is trained as trained."""
    trained: list[Trained] = field(default_factory=list)
    """What each stage's training took."""
    parameters: dict[str, int] = field(default_factory=dict)
    outcomes: list[dict[str, Outcomes]] = field(default_factory=list)
    """After each stage: the outcomes of every task."""
    backbone: Backbone | None = None
    """The first stage's base, loaded and not yet trained."""
    model: nn.Module | None = None
    """The model as the newest phase left it, None where that was another attempt's phase."""

    def __post_init__(self) -> None:
        self.meter = Meter(self.runtime)
        self.phases = Phases(self.folder.path / "phases", self.meter)

    @property
    def last(self) -> Stage:
        """Return the last stage, whose task is the run's."""
        return self.stages[-1]

    @property
    def evaluator(self) -> Evaluator:
        """Return what answers questions with a model."""
        return evaluator(self.config, self.runtime)

    def phase(self, stage: Stage, what: str) -> str:
        """Return the name of a stage's phase."""
        return phase_name(self.config, stage.number, what)

    def label(self) -> str:
        """Return how the run is named beside a bar."""
        return f"[{self.config.sweep.index}/{self.config.sweep.total}] {self.folder.id}"


def stages_of(config: RunConfig, folder: RunFolder) -> Iterator[Stage]:
    """Yield the stages of a run, their items tokenised."""
    if not config.sequence:
        yield Stage(0, "task", config, session.prepare(config), folder, folder.trained, True)
        return
    for number, name in enumerate(config.sequence):
        alone = replace(config, task=config.sequence_tasks[name], sequence=[], sequence_tasks={})
        own, last = folder.stage(f"{number + 1}-{name}"), number + 1 == len(config.sequence)
        trained = folder.trained if last else own.trained
        yield Stage(number, name, alone, session.prepare(alone), own, trained, last)
