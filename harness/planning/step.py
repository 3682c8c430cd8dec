"""Training steps of this project's own code over tensors without numbers, and what they hold at their peak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import masking_utils
from transformers.integrations.neftune import activate_neftune

from harness.config import RunConfig
from harness.errors import ConfigError, first_line
from harness.meter import Meter
from harness.methods.base import trainable
from harness.objectives.base import Batch, Features, Objective
from harness.planning.allocator import CachingAllocator
from harness.planning.gpu import WORKSPACE, as_on_cuda, clip, foreach_steps
from harness.planning.live import ACTIVATIONS, GRADIENTS, OPTIMISER, PAGED, TEMPORARIES, WEIGHTS, LiveMemory, Moment
from harness.planning.quantised import state_tensors
from harness.planning.skeleton import Skeleton, castable, without_numbers
from harness.planning.work import Work
from harness.runtime import Runtime, settings_kept
from harness.storage.record import RunFolder
from harness.training.arguments import arguments
from harness.training.trainer import HarnessTrainer, Job

PAGED_FROM = 100_000
"""Values from which bitsandbytes pages a tensor of optimiser state."""


@dataclass(frozen=True)
class Peak:
    """What a training holds at its peak."""

    moment: Moment
    """Live bytes by what they are there for."""
    reserved: int
    """Bytes that the caching allocator has then asked of the driver; the live ones where none was played."""
    work: Work
    """What the step computes and moves."""


@dataclass
class Rehearsal:
    """A training whose steps are run at any batch size, each over the longest items that the task allows."""

    config: RunConfig
    skeleton: Skeleton
    objective: Objective[Any]
    runtime: Runtime
    cuda: bool
    """Whether the run that is planned computes on a GPU; the rehearsal never does."""
    mode: FakeTensorMode | None
    """None rehearses with real tensors, which tests compare with."""
    optimizer: Any = field(init=False)
    live: LiveMemory = field(init=False)

    def __post_init__(self) -> None:
        # Outside of the fake mode: optimisers of 8 bits compute tables of real numbers when they are made.
        with settings_kept(), TemporaryDirectory() as folder, castable():
            self.optimizer = self._trainer(Path(folder)).create_optimizer()
        if self.cuda:
            foreach_steps(self.optimizer)
        for parameter in self._trained():
            parameter.register_post_accumulate_grad_hook(self._note_gradient)

    def peak(self, batch_size: int, item: Features | None = None) -> Peak:
        """Return the peak of the second of two steps: the optimiser has its state from the first on.

        The second is the first over again and is not run: that would take as long once more. All items are `item`, by
        default as long as the task allows.
        """
        batch = [item or self.objective.longest()] * batch_size
        allocator = CachingAllocator() if self.cuda else None
        self.live = LiveMemory(allocator)
        model = self.skeleton.model
        with self._context(), self.live:
            self.live.hold([*model.parameters(), *model.buffers(), *state_tensors(model)], WEIGHTS)
            self._hold_state()
            if self.cuda:
                workspace = torch.empty(WORKSPACE, dtype=torch.uint8)
                self.live.hold([workspace], TEMPORARIES)
            self.live.work = work = Work()
            with self.live.repeated(), self._without_numbers():
                self._step(batch)
        return Peak(self.live.peak, allocator.reserved if allocator else self.live.peak.total, work)

    @contextmanager
    def _without_numbers(self) -> Iterator[None]:
        """Say in one line that a step reads numbers, as where a tuner's forward pass looks for infinite ones.

        torch's errors of fake tensors, and those of tuners over them, are RuntimeErrors.
        """
        try:
            yield
        except RuntimeError as error:
            if self.mode is None:
                raise
            name, reason = self.config.method.name, first_line(error)
            raise ConfigError("method", name, f"its training step cannot run without numbers: {reason}") from error

    def _step(self, items: list[Features]) -> None:
        settings, live = self.config.train, self.live
        count = settings.gradient_accumulation_steps
        with live.part("batches", ACTIVATIONS):
            # The Trainer fetches a step's batches together; the loader has one more ready, which is not on a GPU.
            batches = [self.objective.collate(items) for _ in range(count if self.cuda else count + 1)]
        for batch in batches[:count]:
            with live.part("forward", ACTIVATIONS):
                loss = self._loss(batch, len(items))
            with live.part("backward", TEMPORARIES):
                loss.backward()
            del loss
        if settings.max_grad_norm:
            with live.part("clipping", TEMPORARIES):
                clip(self._trained(), settings.max_grad_norm)
        with live.part("optimiser", TEMPORARIES):
            self.optimizer.step()
        self._hold_state()
        self.optimizer.zero_grad()

    def _loss(self, batch: Batch, count: int) -> Tensor:
        """Return the loss of a batch as the Trainer does, but for the look at its value."""
        with self.runtime.autocast():
            fused = self.config.train.fused_loss
            return self.objective.training_loss(self.skeleton.model, batch, fused) / count

    def _trained(self) -> list[Tensor]:
        return list(trainable(self.skeleton.model).values())

    def _note_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.live.hold([parameter.grad], GRADIENTS)

    def _hold_state(self) -> None:
        """Count the optimiser's state; a tensor that bitsandbytes would page lies outside of the GPU."""
        paged = self.cuda and getattr(self.optimizer, "is_paged", False)
        for state in self.optimizer.state.values():
            for tensor in state.values():
                if isinstance(tensor, Tensor):
                    large = tensor.numel() >= PAGED_FROM
                    self.live.hold([tensor], PAGED if paged and large else OPTIMISER)

    def _context(self) -> ExitStack:
        stack = ExitStack()
        if self.mode is not None:
            stack.enter_context(without_numbers(self.mode))
            if self.objective.packed:  # else transformers makes a mask wherever it cannot read that all is ones
                stack.enter_context(patch.object(masking_utils, "is_tracing", lambda _=None: False))
        if self.cuda:
            stack.enter_context(as_on_cuda())
        return stack

    def _trainer(self, folder: Path) -> HarnessTrainer:
        """Return the run's Trainer, whose optimiser and settings are taken and which never trains."""
        model, backbone = self.skeleton.model, self.skeleton.backbone
        run, meter = RunFolder(folder, "plan"), Meter(self.runtime)
        job = Job(self.config, model, backbone.head, self.objective, [], run, meter, self.runtime)
        trainer = HarnessTrainer(arguments(self.config, self.runtime, 2, folder), job)
        prepare_model(trainer)
        return trainer


def prepare_model(trainer: HarnessTrainer) -> None:
    """Switch on what the Trainer switches on when it begins: training mode, checkpointing, noise on embeddings."""
    model: Any = trainer.model
    model.train()
    if trainer.args.activation_checkpointing:
        options = dict(trainer.args.activation_checkpointing_kwargs or {})
        own = {name: options.pop(name) for name in ("every_n_layers", "offload") if name in options}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options, **own)
    if trainer.neftune_noise_alpha is not None:
        activate_neftune(model, trainer.neftune_noise_alpha, trainer.accelerator)
