"""What watches a training: its clock, its history and bar, and the check that every tensor learns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from harness import progress
from harness.errors import TrainingError
from harness.methods.base import trainable
from harness.storage.record import RunFolder


class Clock:
    """Seconds of training over all attempts, with pauses for what is not training."""

    def __init__(self) -> None:
        self.earlier = 0.0
        """Seconds of the attempts before this one, up to the checkpoint it goes on from."""
        self.interruptions = 0
        self._begin = time.perf_counter()

    def start(self) -> None:
        """Begin this attempt."""
        self._begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Return the seconds so far."""
        return self.earlier + time.perf_counter() - self._begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what runs inside."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._begin += time.perf_counter() - begin

    def state(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        return {"seconds": self.seconds, "interruptions": self.interruptions}

    def resume(self, state: dict[str, float]) -> None:
        """Go on from what `state` returned."""
        self.earlier, self.interruptions = state["seconds"], int(state["interruptions"]) + 1


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
        if not any(bool(tensor.grad.any()) for tensor in inside.values() if tensor.grad is not None):
            raise TrainingError(f"the gradient of {next(iter(inside))} and all others is zero; it would not learn")

    def _in_head(self, name: str) -> bool:
        return any(f".{module}." in f".{name}" for module in self.head)


class Watch(TrainerCallback):
    """Writes the history, moves the bar, tells the tracker, and evaluates along the way."""

    def __init__(
        self,
        folder: RunFolder,
        bar: progress.Bar,
        clock: Clock,
        per_epoch: float,
        log: Callable[[dict[str, float], int], None],
        evaluate: Callable[[int], dict[str, float]],
        every: Sequence[int],
    ) -> None:
        self.folder, self.bar, self.clock, self.per_epoch, self.log = folder, bar, clock, per_epoch, log
        self.evaluate, self.every = evaluate, every
        self.note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock; a resumed run starts its bar where it was cut."""
        state.compute_steps(args, state.max_steps)  # a resumed state has the intervals of the command before
        self.bar.start_at(state.global_step)
        self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar; a step that is saved is logged too, so a resumed history has no seam."""
        self.bar.advance(1, f"{self.note} {state.num_input_tokens_seen / self.clock.seconds:,.0f} tokens/s")
        if control.should_save or self._due(state.global_step):
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write a line of history."""
        if "loss" not in logs:
            return
        self.note = f"loss {logs['loss']:.3f}"
        entry = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs}
        step = state.global_step
        entry |= {"epoch": step * self.per_epoch, "tokens": state.num_input_tokens_seen}
        if self._due(step):
            with self.clock.paused():
                entry |= self.evaluate(step)
        self.folder.append_history({"step": step} | entry | {"seconds": round(self.clock.seconds, 3)})
        self.log(entry, step)

    def _due(self, step: int) -> bool:
        return any(every > 0 and step % every == 0 for every in self.every)
