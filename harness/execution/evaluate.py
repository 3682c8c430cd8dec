"""Scores and per-item outcomes of a model on the items of a task."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from harness import progress
from harness.config import RunConfig
from harness.distributed import group
from harness.distributed.shard import settle
from harness.objectives.base import Objective
from harness.runtime import Runtime
from harness.tasks.base import Outcome, Task

log = logging.getLogger(__name__)

HELD_OUT = ("validation", "test")
Outcomes = dict[str, list[Outcome]]
Questions = dict[str, Any]


@dataclass(frozen=True)
class Evaluator:
    """Answers questions with a model, in the precision that the run trains in."""

    runtime: Runtime
    batch_size: int

    def answer(self, model: nn.Module, objective: Objective[Any], questions: Questions, label: str) -> Outcomes:
        """Answer the questions of each split; leaves the model's mode and the random state as they were.

        Gradients are off by ``no_grad``: what a model keeps from ``inference_mode`` could not be trained with.
        """
        was_training = model.training
        model.eval()
        outcomes = {}
        try:
            with torch.no_grad(), torch.random.fork_rng(self.runtime.generators), self.runtime.autocast():
                for split, asked in questions.items():
                    with progress.bar(f"{label} {split}", count(asked)) as bar:
                        outcomes[split] = objective.answer(model, asked, self.batch_size, partial(_advance, bar))
        finally:
            settle(model).train(was_training)
        return outcomes


def _advance(bar: progress.Bar, answered: int) -> None:
    """Move the bar by what this process answered, and by what the others did meanwhile."""
    bar.advance(answered * group.size())


def evaluator(config: RunConfig, runtime: Runtime) -> Evaluator:
    """Return the evaluator of a run."""
    return Evaluator(runtime, config.train.per_device_eval_batch_size)


def count(questions: Any) -> int:
    """Return how many rows will be run."""
    return len(getattr(questions, "rows", questions))


def scores(task: Task, outcomes: Outcomes) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each split's metrics with their intervals, as plain values."""
    return {
        split: {name: asdict(score) for name, score in task.scores(found).items()} for split, found in outcomes.items()
    }


def annotated(task: Task, outcomes: Outcomes) -> Outcomes:
    """Return each split's outcomes with the values of the metrics that are not the task's own."""
    return {split: task.annotated(found) for split, found in outcomes.items()}
