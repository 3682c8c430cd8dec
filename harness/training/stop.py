"""Stopping in order: where a signal says that a job's time is over, the step is finished and a checkpoint written.

SLURM sends one some time before a job's limit and before it gives the node to another; without this a run would go on
from the last checkpoint that it happened to have.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from transformers import TrainerCallback

from harness.distributed import group, watch


class Preempted(KeyboardInterrupt):
    """The run was told to stop and can go on: an interruption, not a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class _Stop:
    """What this process was told; signals are the whole process's."""

    watched: tuple[int, ...] = ()
    """The signals that are waited for, in all processes of the run or in none."""
    deferred = False
    """Whether a signal is noted alone: a step's end, or the run's processes, will see to it."""
    signal: int | None = None
    agreed: int | None = None
    """The signal that some process of the run got before the end of this step."""


def watched() -> tuple[int, ...]:
    """Return the signals that stop what this process does in order."""
    return _Stop.watched


def told() -> int | None:
    """Return the signal that this process got."""
    return _Stop.signal


def hold_back(numbers: Sequence[int]) -> None:
    """Have signals wait for :func:`on_signals`: one that comes before would end this process, or one it starts."""
    if numbers:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def let_through(numbers: Sequence[int]) -> None:
    """Let this thread have the signals that were held back."""
    if numbers and hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


@contextmanager
def on_signals(numbers: Sequence[int]) -> Iterator[None]:
    """Let these signals stop what runs inside: a training after a checkpoint, all else at once, by `Preempted`."""
    before = {number: signal.signal(number, _told) for number in numbers}
    _Stop.watched, _Stop.signal, _Stop.agreed = tuple(numbers), None, None
    try:
        let_through(numbers)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _Stop.watched, _Stop.signal, _Stop.agreed = (), None, None


def _told(number: int, _frame: Any) -> None:
    if _Stop.signal is not None:
        return
    watch.raise_if_lost(number)
    _Stop.signal = number
    if not _Stop.deferred:
        _end(number)


def _end(number: int) -> NoReturn:
    _Stop.signal = number  # one that comes late must not interrupt what ends in order
    watch.ending_in_order(number)
    raise Preempted(number)


@contextmanager
def noted() -> Iterator[None]:
    """Have signals be noted and stop nothing: who asks :func:`told` sees to them."""
    _Stop.deferred = True
    try:
        yield
    finally:
        _Stop.deferred = False


@contextmanager
def after_checkpoint() -> Iterator[None]:
    """Have a signal wait for the checkpoint of the step; one that came with the last step stops what follows."""
    with noted():
        yield
    if _Stop.signal is not None:
        _end(_Stop.signal)


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
            _end(_Stop.agreed)
