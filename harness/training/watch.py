"""What watches a training: its history and bar, and the check that every tensor learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from transformers import TrainerCallback

from harness import progress
from harness.distributed import group
from harness.distributed.gradients import local
from harness.errors import DivergedError, TrainingError
from harness.meter import Meter
from harness.methods.base import trainable
from harness.storage.record import RunFolder

STEPS = "train"
"""The section of the meter that has optimiser steps and nothing else."""


class CheckGradients(TrainerCallback):
    """After the first backward pass: each trainable tensor has a gradient, and some are not zero.

    Some besides the new head's: BERT under prefix tuning with gradient checkpointing trains its head
    without an error, and the prefix not at all.
    """

    def __init__(self, head: Sequence[str]) -> None:
        self.head, self.checked = head, False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check once."""
        if self.checked:
            return
        self.checked = True
        tensors = trainable(kwargs["model"])
        for name, tensor in tensors.items():
            if tensor.grad is None:
                raise TrainingError(f"{name} is set to train but got no gradient")
        inside = {name: tensor for name, tensor in tensors.items() if not self._in_head(name)} or tensors
        some = any(bool(local(tensor.grad).any()) for tensor in inside.values() if tensor.grad is not None)
        if not any(group.gathered(some)):
            raise TrainingError(f"the gradient of {next(iter(inside))} and all others is zero; it would not learn")

    def _in_head(self, name: str) -> bool:
        return any(f".{module}." in f".{name}" for module in self.head)


@dataclass
class Hooks:
    """What a training does on its way besides steps: history, tracker, evaluations."""

    log: Callable[[dict[str, float], int], None]
    """Adds one line to the tracker's history."""
    evaluate: Callable[[int], dict[str, float]]
    """Evaluates after the step of this number, in sections of its own."""
    every: Sequence[int]
    """Steps between evaluations, and between probes; 0 for none."""
    may_end_early: bool = False
    """Whether a training that is clearly diverging ends at its half: a search need not know how bad it is."""

    def due(self, step: int) -> bool:
        """Return whether something is evaluated after this step."""
        return any(every > 0 and step % every == 0 for every in self.every)


DIVERGING = 3.0
"""Standard errors by which the loss must have risen: of 1,000 trainings that learn nothing 2 to 5 end by chance."""
LEAST_STEPS = 8
"""Logged steps in each quarter: the standard error of fewer is itself not known."""


def refuse_diverging(losses: Sequence[tuple[int, float]], steps: int) -> None:
    """Raise a :class:`DivergedError` where, at half of its `steps`, a training's loss has risen.

    The mean of the second quarter lies above that of the first by more than 3 standard errors of the difference, those
    of Welch's test. What has only not fallen yet goes on: some methods start late.
    """
    first = [loss for step, loss in losses if 4 * step <= steps]
    second = [loss for step, loss in losses if steps < 4 * step <= 2 * steps]
    if min(len(first), len(second)) < LEAST_STEPS:
        return
    error = math.sqrt(variance(first) / len(first) + variance(second) / len(second))
    rise = fmean(second) - fmean(first)
    if rise > DIVERGING * error:
        raise DivergedError(
            f"diverging: after half of its steps its loss has risen by {rise:.3g} to {fmean(second):.3g}"
        )


class Watch(TrainerCallback):
    """Writes the history, moves the bar, tells the tracker, and evaluates along the way."""

    def __init__(self, folder: RunFolder, bar: progress.Bar, meter: Meter, per_epoch: float, hooks: Hooks) -> None:
        self.folder, self.bar, self.meter, self.per_epoch, self.hooks = folder, bar, meter, per_epoch, hooks
        self.note = ""
        self._steps = ExitStack()

    def measured(self) -> ExitStack:
        """Return a context at whose end the section of steps is closed, also where a step raised."""
        return self._steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start measuring the steps; a resumed run starts its bar where it was cut."""
        state.compute_steps(args, state.max_steps)  # a resumed state has the intervals of the command before
        self.bar.start_at(state.global_step)
        self._steps.enter_context(self.meter.section(STEPS))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop measuring the steps."""
        self._steps.close()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar; a step that is saved is logged too, so a resumed history has no seam."""
        self.bar.advance(1, f"{self.note} {state.num_input_tokens_seen / self.meter.elapsed(STEPS):,.0f} tokens/s")
        if control.should_save or self.hooks.due(state.global_step):
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write a line of history."""
        if "loss" not in logs:
            return
        self.note = f"loss {logs['loss']:.3f}"
        entry = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs}
        step = state.global_step
        entry |= {"epoch": step * self.per_epoch, "tokens": state.num_input_tokens_seen}
        if self.hooks.due(step):
            entry |= self.hooks.evaluate(step)
        self.folder.append_history({"step": step} | entry | {"seconds": round(self.meter.elapsed(STEPS), 3)})
        self.hooks.log(entry, step)
        if self.hooks.may_end_early and step == -(-state.max_steps // 2):
            refuse_diverging(group.by_first(self.folder.losses), state.max_steps)
