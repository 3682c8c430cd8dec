"""The model that probes measure, and how it is left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from harness.distributed.shard import settle
from harness.training.checkpoint import random_state, restore_random_state

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.execution.session import Prepared
    from harness.forgetting.reading import Reading
    from harness.runtime import Runtime


@dataclass
class Subject:
    """A model in evaluation mode, untouched or tuned, with what a probe may need beside it."""

    model: nn.Module
    config: RunConfig
    prepared: Prepared
    readings: Mapping[str, Reading] = field(default_factory=dict)
    """The texts that the probe asked for, read, by the probe's names of them."""

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return next(self.model.parameters()).device

    @property
    def batch_size(self) -> int:
        """Return how many rows are run at once."""
        return self.config.train.per_device_eval_batch_size


@contextmanager
def undisturbed(model: nn.Module, runtime: Runtime) -> Iterator[None]:
    """Measure in evaluation mode and without gradients; put every module's mode and all random states back.

    lm-eval seeds Python's and NumPy's generators, loading a model torch's: a training that is measured on its
    way must not draw other numbers than one that is not.
    """
    modes = {module: module.training for module in model.modules()}
    random = random_state(runtime)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        settle(model)
        for module, mode in modes.items():
            module.training = mode
        restore_random_state(random, runtime)


def plain(model: nn.Module) -> Any:
    """Return the transformers model inside of PEFT's wrapper, its adapters in place and active."""
    inner: Any = getattr(model, "get_base_model", None)
    return model if inner is None else inner()


@contextmanager
def last_hidden_states(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the body's last hidden states at each forward pass, of shape (rows, virtual and real tokens, d).

    The whole model is called and the body watched: what a method puts in front of the body, such as virtual
    tokens, is then in place.
    """
    kept: list[torch.Tensor] = []
    body = plain(model).base_model
    handle = body.register_forward_hook(lambda _module, _inputs, output: kept.append(output[0]))
    try:
        yield kept
    finally:
        handle.remove()
