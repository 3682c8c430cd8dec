"""transformers.Trainer with this project's loss, order of items and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from harness.errors import TrainingError
from harness.methods.base import Method
from harness.objectives.base import Features, Objective
from harness.storage.files import new_folder
from harness.storage.record import RunFolder
from harness.training.checkpoint import RESUME, load_state, prune, random_state, restore_random_state, save_state
from harness.training.order import Items, Order, order_by_length
from harness.training.watch import Clock


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
