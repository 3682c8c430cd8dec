"""Training by transformers.Trainer: every method by the same loop, resumable to the bit."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from harness import progress
from harness.checkpoint import RESUME, latest, load_state, random_state, restore_random_state, save_state, step_of
from harness.config import RunConfig, TrainConfig
from harness.errors import ConfigError, TrainingError
from harness.files import new_folder, remove_partial
from harness.identity import learning_rate
from harness.methods.base import Method, trainable
from harness.models import device_of
from harness.objectives.base import Features, Objective
from harness.record import RunFolder

OURS = {
    "keep_checkpoints",
    "other",
    "eval_steps",
    "learning_rate",
    "learning_rate_factor",
    "optim",
    "save_steps",
    "max_steps",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
}
Array = npt.NDArray[Any]


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


class Order(Sampler[int]):
    """The whole training's item order, written down before it starts.

    Resuming is then skipping, whatever the epoch; the order depends on the seed and on nothing else.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def order_by_length(lengths: Sequence[int], batch_size: int, total: int, seed: int) -> list[int]:
    """Return `total` indices in random order, such that each batch holds items of similar length.

    Shuffle; sort within groups of 50 batches; shuffle the batches; again for each epoch, each of which
    holds every index once. TREC's questions padded to the longest of 16 random ones are 40 % padding,
    sorted in groups 3 %.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < total:
        shuffled = rng.permutation(len(lengths))
        # Fill up the batch that the epoch before left short, or all batches would lie across its seams.
        first = -len(order) % batch_size
        order += shuffled[:first].tolist()
        order += _by_length(shuffled[first:], np.asarray(lengths), batch_size, rng)
    return order[:total]


def _by_length(indices: Array, lengths: Array, batch_size: int, rng: np.random.Generator) -> list[int]:
    """Return `indices` in batches of similar length; a short batch goes last."""
    size = 50 * batch_size
    groups = [indices[start : start + size] for start in range(0, len(indices), size)]
    ranked = [index for group in groups for index in group[np.argsort(lengths[group], kind="stable")].tolist()]
    batches = [ranked[start : start + batch_size] for start in range(0, len(ranked), batch_size)]
    short = [batch for batch in batches if len(batch) < batch_size]
    whole = [batches[number] for number in rng.permutation(len(batches) - len(short))]
    return [index for batch in [*whole, *short] for index in batch]


def steps_of(train: TrainConfig, items: int) -> int:
    """Return the number of optimiser steps: ``max_steps``, or what `num_train_epochs` makes of the items."""
    if train.max_steps != -1:
        return train.max_steps
    per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps
    return max(1, math.ceil(items * train.num_train_epochs / per_step))


class Items(Dataset[Features]):
    """Tokenised items as the data set torch's loader wants."""

    def __init__(self, features: list[Features]) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Features:
        return self.features[index]


class HarnessTrainer(Trainer):
    """The Trainer with this project's loss, order of items and checkpoints."""

    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        objective: Objective[Any],
        method: Method,
        folder: RunFolder,
        features: list[Features],
        keep: bool,
    ) -> None:
        super().__init__(model=model, args=arguments, train_dataset=Items(features), data_collator=objective.collate)
        self.objective, self.method, self.folder, self.keep = objective, method, folder, keep
        self.clock = Clock()
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        lengths = [item["length"] for item in self.train_dataset.features]
        # Sorting over whole steps keeps the batches of an accumulated step as alike as one large batch.
        return Order(order_by_length(lengths, per_step, per_step * self.args.max_steps, self.args.seed))

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        return sum(self.objective.units(batch) for batch in batch_samples)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the loss per target over the whole accumulated step."""
        loss = self.objective.loss(model, inputs) / num_items_in_batch
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; lower train.learning_rate or use fp32"
            )
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: nothing reads the count, and counting walks all parameters at every step."""
        return 0

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Use the method's own parameter groups where it has any."""
        if self.optimizer is None:
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = self.method.create_optimizer(
                self.model, cls, options | {"weight_decay": self.args.weight_decay}
            )
        return super().create_optimizer(model)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        target = self.folder.checkpoints / f"checkpoint-{self.state.global_step}"
        self.folder.flush_history()
        with new_folder(target) as folder:
            self.method.save(self.model, folder)
            (folder / RESUME).mkdir()
            save_state(folder / RESUME, "progress", self._progress_state())
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        prune(self.folder.checkpoints, target, self.keep)

    def _progress_state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {k: v for k, v in self.lr_scheduler.state_dict().items() if k != "lr_lambdas"},
            "scaler": scaler.state_dict() if scaler is not None else None,
            "random": random_state(),
            "clock": self.clock.state(),
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.method.load(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = load_state(Path(checkpoint) / RESUME, "progress")
        self._random = state["random"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["scheduler"] | {"lr_lambdas": [None] * len(self.lr_scheduler.base_lrs)})
        self.clock.resume(state["clock"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        """The scaler came with the optimiser."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            restore_random_state(self._random)


def prune(folder: Path, newest: Path | None, keep: bool) -> None:
    """Remove checkpoints older than `newest`, or where they are kept, what only resuming needs of them."""
    for path in folder.glob("checkpoint-*"):
        if path == newest:
            continue
        if keep:
            shutil.rmtree(path / RESUME, ignore_errors=True)
            (path / TRAINER_STATE_NAME).unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)


def finish_checkpoints(folder: Path, keep: bool) -> None:
    """After a run remove its checkpoints, or where they are kept, what only resuming needed."""
    remove_partial(folder)
    prune(folder, None, keep)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


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


def arguments(
    train: TrainConfig, method: Method, rate: float, steps: int, seed: int, output_dir: Path
) -> TrainingArguments:
    """Return the Trainer's arguments: the configuration's, passed through, and what this project decides."""
    passed = {name: value for name, value in asdict(train).items() if name not in OURS}
    decided = {
        "output_dir": str(output_dir),
        "max_steps": steps,
        "learning_rate": rate,
        "optim": train.optim or method.optimizer(),
        # Without a GPU the model is on the CPU; the Trainer would move it to Apple's, and refuse bf16.
        "use_cpu": device_of(train.use_cpu).type == "cpu",
        "activation_checkpointing": train.gradient_checkpointing,
        # Reentrant checkpointing gives no gradient where the inputs need none, as with a frozen base.
        "activation_checkpointing_kwargs": {"use_reentrant": False} | train.gradient_checkpointing_kwargs,
        "save_strategy": "steps" if train.save_steps else "no",
        "save_steps": train.save_steps or steps,
        "logging_strategy": "steps",
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": [],
        "seed": seed,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    made = TrainingArguments(**passed | decided | train.other)
    # Several visible GPUs would mean DataParallel, which splits batches behind our back.
    made._n_gpu = min(made.n_gpu, 1)
    return made


def check_arguments(config: RunConfig) -> None:
    """Refuse, before anything is trained, what the Trainer would refuse."""
    try:
        arguments(config.train, config.method, learning_rate(config), 1, config.seed, Path(config.output_dir))
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError("train", type(error).__name__, (str(error).splitlines() or [""])[0]) from error


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
