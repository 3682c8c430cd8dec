"""Stopping in order: where a signal says that a job's time is over, the step is finished and a checkpoint written.

SLURM sends one some time before a job's limit and before it gives the node to another; without this a run would go on
from the last checkpoint that it happened to have.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from harness.distributed import group


class Preempted(KeyboardInterrupt):
    """The run was told to stop and can go on: an interruption, not a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class _Stop:
    """What this process was told; signals are the whole process's."""

    watched = False
    """Whether signals are waited for, in all processes of the run or in none."""
    training = False
    signal: int | None = None
    agreed: int | None = None
    """The signal that some process of the run got before the end of this step."""


def requested() -> bool:
    """Return whether a signal asked the training to stop at its next step."""
    return _Stop.signal is not None


@contextmanager
def on_signals(numbers: Sequence[int]) -> Iterator[None]:
    """Let these signals stop what runs inside: a training after a checkpoint, all else at once, by `Preempted`."""
    before = {number: signal.signal(number, _told) for number in numbers}
    _Stop.watched, _Stop.signal, _Stop.agreed = True, None, None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _Stop.watched, _Stop.signal, _Stop.agreed = False, None, None


def _told(number: int, _frame: Any) -> None:
    if not _Stop.training:
        raise Preempted(number)
    _Stop.signal = number


@contextmanager
def after_checkpoint() -> Iterator[None]:
    """Have a signal wait for the checkpoint of the step; one that came with the last step stops what follows."""
    _Stop.training = True
    try:
        yield
    finally:
        _Stop.training = False
    if _Stop.signal is not None:
        raise Preempted(_Stop.signal)


class StopAtStep(TrainerCallback):
    """Saves at the end of a step in which a signal came, and stops there."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint; several processes do so at the same step, whichever of them was told."""
        if _Stop.watched:
            _Stop.agreed = next((one for one in group.gathered(_Stop.signal) if one is not None), None)
        if _Stop.agreed is not None:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop: the checkpoint is written."""
        if _Stop.agreed is not None:
            raise Preempted(_Stop.agreed)
