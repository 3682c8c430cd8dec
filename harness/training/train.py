"""Training by transformers.Trainer: every method by the same loop, resumable to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from harness import progress
from harness.config import RunConfig
from harness.errors import TrainingError
from harness.identity import learning_rate
from harness.methods.base import trainable
from harness.objectives.base import Features, Objective
from harness.storage.files import remove_partial
from harness.storage.record import RunFolder
from harness.training.arguments import arguments
from harness.training.checkpoint import latest, step_of
from harness.training.order import steps_of
from harness.training.trainer import HarnessTrainer
from harness.training.watch import CheckGradients, Clock, Watch


@dataclass(frozen=True)
class Trained:
    """What a training took."""

    steps: int
    tokens: int
    """Input tokens without padding, over all steps."""
    seconds: float
    """Over all steps, evaluations along the way left out."""
    earlier_seconds: float
    """Of those, the ones before this process resumed the run."""
    interruptions: int


def train(
    model: nn.Module,
    objective: Objective[Any],
    features: list[Features],
    config: RunConfig,
    folder: RunFolder,
    head: Sequence[str],
    watch: Callable[[progress.Bar, Clock, float], Watch],
    label: str,
) -> Trained:
    """Train `model` from the start, or from the run's newest complete checkpoint.

    `head` names the modules of the task's new head. Raises :class:`TrainingError` where the loss or a trained
    tensor is not finite, or a trainable tensor gets no gradient.
    """
    settings, method = config.train, config.method
    steps = steps_of(settings, len(features))
    made = arguments(settings, method, learning_rate(config), steps, config.seed, folder.checkpoints)
    trainer = HarnessTrainer(model, made, objective, method, folder, features, settings.keep_checkpoints)
    remove_partial(folder.checkpoints)
    checkpoint = latest(folder.checkpoints)
    folder.trim_history(step_of(checkpoint) if checkpoint else 0)
    per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    with progress.bar(label, steps) as bar:
        trainer.add_callback(CheckGradients(head))
        trainer.add_callback(watch(bar, trainer.clock, per_step / len(features)))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    refuse_not_finite(model, steps)
    clock, tokens = trainer.clock, int(trainer.state.num_input_tokens_seen)
    return Trained(steps, tokens, clock.seconds, clock.earlier, clock.interruptions)


def refuse_not_finite(model: nn.Module, steps: int) -> None:
    """Raise a :class:`TrainingError` where the last step, after which no loss is computed, broke a tensor."""
    for name, tensor in trainable(model).items():
        if not bool(tensor.isfinite().all()):
            raise TrainingError(f"{name} is not finite after step {steps}; lower train.learning_rate or use fp32")
