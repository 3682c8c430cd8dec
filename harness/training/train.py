"""Training by transformers.Trainer: every method by the same loop, resumable from any checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from harness import progress
from harness.config import RunConfig
from harness.distributed import group
from harness.distributed.gradients import align, local
from harness.errors import DivergedError
from harness.methods.base import trainable
from harness.planning.estimate import kept
from harness.storage.files import remove_partial
from harness.training import stop
from harness.training.arguments import arguments
from harness.training.checkpoint import latest, step_of
from harness.training.order import steps_of
from harness.training.trainer import HarnessTrainer, Job
from harness.training.watch import CheckGradients, Hooks, Watch

RANK_SEED = 1_000_003
"""Between the seeds of two processes; the first has the seed of a run in one."""


@dataclass(frozen=True)
class Trained:
    """What a training took besides time and memory, which its meter has."""

    steps: int
    tokens: int
    """Input tokens without padding, over all steps."""
    interruptions: int
    """How often it went on from a checkpoint."""


def train(job: Job, hooks: Hooks, label: str) -> Trained:
    """Train from the start, or from the run's newest complete checkpoint.

    Raises :class:`DivergedError` where the loss or a trained tensor is not finite, and :class:`TrainingError` where a
    trainable tensor gets no gradient.
    """
    settings, folder = job.config.train, job.folder
    steps = steps_of(settings, len(job.features))
    trainer = HarnessTrainer(arguments(job.config, job.runtime, steps, folder.checkpoints), job)
    checkpoint = group.by_first(partial(_checkpoint, folder.checkpoints))
    if group.size() > 1:
        prepare_together(job)
    folder.trim_history(step_of(checkpoint) if checkpoint else 0)
    per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    with progress.bar(label, steps, expected(job.config)) as bar:
        trainer.add_callback(CheckGradients(job.head))
        trainer.add_callback(stop.StopAtStep())  # before the watch, which logs a step that is saved
        watch = Watch(folder, bar, job.meter, per_step / len(job.features), hooks)
        trainer.add_callback(watch)
        with watch.measured(), stop.after_checkpoint():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    refuse_not_finite(job.model, steps)
    return Trained(steps, int(trainer.state.num_input_tokens_seen), trainer.interruptions)


def expected(config: RunConfig) -> float | None:
    """Return the seconds that a sweep's first training was estimated to take, None where nobody asked or sees them."""
    if config.sweep.index > 1 or not progress.interactive():
        return None
    found = kept(config)
    return None if found is None else found.seconds


def _checkpoint(folder: Path) -> Path | None:
    """Clear away what was begun to be written, and return what to go on from."""
    remove_partial(folder)
    return latest(folder)


def prepare_together(job: Job) -> None:
    """Have all processes start from the same numbers, and each draw its own items' dropout."""
    align(job.model)
    torch.manual_seed(job.config.seed + RANK_SEED * group.rank())


def refuse_not_finite(model: nn.Module, steps: int) -> None:
    """Raise a :class:`DivergedError` where the last step, after which no loss is computed, broke a tensor."""
    broken = [name for name, tensor in trainable(model).items() if not bool(local(tensor).isfinite().all())]
    for name in sorted({name for found in group.gathered(broken[:1]) for name in found}):
        raise DivergedError(f"{name} is not finite after step {steps}; lower train.learning_rate or use fp32")
