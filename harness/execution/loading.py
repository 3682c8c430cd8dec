"""From a model's files to a model with a method attached, ready to train or to read a trained state into."""

from __future__ import annotations

import transformers
from torch import nn

from harness.config import RunConfig
from harness.distributed.shard import settle, wrapped
from harness.errors import NotApplicable
from harness.execution.session import Prepared
from harness.models import Backbone, load_backbone
from harness.runtime import Runtime, torch_dtype


def load(config: RunConfig, prepared: Prepared, runtime: Runtime) -> Backbone:
    """Load the model as the method wants it; raise :class:`NotApplicable` where the method does not fit it."""
    backbone = load_backbone(prepared.pretrained(config), runtime.device, config.method.quantization())
    reason = config.method.unsuitable(backbone)
    if reason is not None:
        raise NotApplicable(reason)
    return backbone


def load_untouched(config: RunConfig, prepared: Prepared, runtime: Runtime) -> Backbone:
    """Load the model as its files have it, in ``model.dtype`` and never quantised, whatever the method."""
    return load_backbone(prepared.pretrained(config), runtime.device)


def attach(config: RunConfig, backbone: Backbone, runtime: Runtime) -> nn.Module:
    """Attach the method to a loaded base and hold what trains in its precision, on the device.

    What the method draws at random comes from the run's seed alone.
    """
    settle(backbone.model)  # else it is what was gathered for an evaluation that is frozen, and not the model
    transformers.set_seed(config.seed)
    return wrapped(runtime.hold_trained(config.method.attach(backbone)))


def merge(config: RunConfig, model: nn.Module) -> nn.Module:
    """Fold the trained state into the weights, in the dtype that the base was loaded in, whatever the method."""
    return config.method.merge(model).to(torch_dtype(config.model.dtype))
