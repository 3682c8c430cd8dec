"""transformers.Trainer with this project's loss, order of items and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from harness.config import RunConfig
from harness.distributed import group
from harness.distributed.gradients import average
from harness.distributed.shard import whole
from harness.distributed.state import in_parts, save_trained
from harness.errors import DivergedError
from harness.meter import Meter
from harness.objectives.base import Features, Objective
from harness.runtime import Runtime
from harness.storage.record import RunFolder
from harness.training.checkpoint import (
    RESUME,
    load_state,
    page_again,
    prune,
    random_state,
    restore_random_state,
    save_state,
)
from harness.training.order import Items, Order, Share, order_by_length


@dataclass(frozen=True)
class Job:
    """One training: a model with a method attached, what it is trained on, and where it is kept."""

    config: RunConfig
    model: nn.Module
    head: Sequence[str]
    """The modules of the task's new head."""
    objective: Objective[Any]
    features: list[Features]
    folder: RunFolder
    meter: Meter
    runtime: Runtime


class HarnessTrainer(Trainer):
    """The Trainer with this project's loss, order of items and checkpoints."""

    optimizer: Any
    lr_scheduler: Any

    def __init__(self, arguments: TrainingArguments, job: Job) -> None:
        objective = job.objective
        super().__init__(
            model=job.model, args=arguments, train_dataset=Items(job.features), data_collator=objective.collate
        )
        self.job, self.objective, self.method = job, objective, job.config.method
        self.interruptions = 0
        self.before = job.meter.state()
        """What was measured before this training: a checkpoint holds what came after."""
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        share = Share.of(self.job.config.train, group.rank(), group.size())
        per_step = share.batch * share.accumulation
        lengths = [item["length"] for item in self.train_dataset.features]
        # Sorting over whole steps keeps the batches of an accumulated step as alike as one large batch.
        order = order_by_length(lengths, per_step, per_step * self.args.max_steps, self.args.seed)
        return Order(share.of_order(order))

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> int:
        return group.summed(sum(self.objective.units(batch) for batch in batch_samples), device)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the loss per target over the whole accumulated step.

        Of n processes each returns n times its items' part, for their gradients are averaged.
        """
        with self.job.runtime.autocast():
            fused = self.job.config.train.fused_loss
            loss = self.objective.training_loss(model, inputs, fused) / num_items_in_batch
        self.summed = group.total(loss)
        if not torch.isfinite(self.summed):
            raise DivergedError(
                f"the loss is {self.summed.item()} at step {self.state.global_step + 1}; "
                "lower train.learning_rate or use fp32"
            )
        return loss * group.size() if group.size() > 1 else loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Go forward and backward; return the loss of all processes' batches, and have their gradients averaged."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if group.size() == 1:
            return loss
        if self.accelerator.sync_gradients:
            average(model)
        return self.summed.detach()

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        found = super()._get_grad_norm(model, grad_norm=grad_norm)
        return whole(found) if isinstance(found, Tensor) else found

    def _track_num_input_tokens(self, inputs: Any) -> None:
        before = self.state.num_input_tokens_seen
        super()._track_num_input_tokens(inputs)
        mine = int(self.state.num_input_tokens_seen) - int(before)
        self.state.num_input_tokens_seen = before + group.summed(mine, self.args.device)

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
        with self.job.meter.section("checkpoint"):
            folder = self.job.folder
            target = folder.checkpoints / f"checkpoint-{self.state.global_step}"
            folder.flush_history()
            state = self._progress_state()
            with group.folder_of_first(target) as made:
                save_trained(self.method, self.model, made)
                (made / RESUME).mkdir()
                save_state(made / RESUME, "progress", state)
                if group.first():
                    self.state.save_to_json(str(made / TRAINER_STATE_NAME))
            if group.first():
                prune(folder.checkpoints, target, self.job.config.train.keep_checkpoints)

    def _progress_state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {k: v for k, v in self.lr_scheduler.state_dict().items() if k != "lr_lambdas"},
            "scaler": scaler.state_dict() if scaler is not None else None,
            "random": group.kept_together(random_state(self.job.runtime)),
            "meter": group.kept_together(self.job.meter.since(self.before)),
            "interruptions": self.interruptions,
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.method.load(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = load_state(Path(checkpoint) / RESUME, "progress", self._parts())
        self._random = state["random"]
        self._drawn_before = group.rank() < (len(self._random) if isinstance(self._random, list) else 1)
        self.optimizer.load_state_dict(state["optimizer"])
        page_again(self.optimizer)
        self.lr_scheduler.load_state_dict(state["scheduler"] | {"lr_lambdas": [None] * len(self.lr_scheduler.base_lrs)})
        self.job.meter.add(group.own(state["meter"]))
        self.interruptions = int(state["interruptions"]) + 1
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _parts(self) -> list[Tensor]:
        """Return the trained tensors in the order of the optimiser's state, where they are in parts."""
        tensors = [tensor for group_of in self.optimizer.param_groups for tensor in group_of["params"]]
        return tensors if in_parts(tensors) else []

    def _load_scaler(self, checkpoint: str | None) -> None:
        """The scaler came with the optimiser."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self._drawn_before:  # one that joined later draws on from its seed
            restore_random_state(group.own(self._random), self.job.runtime)
