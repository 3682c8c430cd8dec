"""A base whose weights several processes hold a part of each: torch's ``fully_shard`` (FSDP2), applied while it loads.

transformers builds the model without numbers, shards it, and has each process read its own rows of each file, so that
none ever holds the whole. What a method adds is small: each process holds it whole, and its gradients are averaged as
those of any other run of several processes.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig

from harness.distributed import group

FREED = "free_full_weight"
"""transformers' word for a module whose whole weights are let go after each pass."""


def how_to_shard(auto: Any, folder: Path, offload: bool, **head: Any) -> DistributedConfig:
    """Return how transformers is to load a model of this class: every block of layers is gathered when it computes."""
    described = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **head)
    with torch.device("meta"):
        skeleton = auto.from_config(described)
    plan = dict.fromkeys(blocks(skeleton), FREED)
    return DistributedConfig(fsdp_size=group.size(), fsdp_plan=plan, fsdp_cpu_offload=offload)


def blocks(model: PreTrainedModel) -> set[str]:
    """Return where a model's blocks are, as ``model.layers.*``: the lists of what transformers never splits."""
    kinds = set(model._no_split_modules or ())
    return {
        f"{name}.*"
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and {type(block).__name__ for block in module} & kinds
    }


def sharded(model: nn.Module) -> bool:
    """Return whether the model is in parts."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def own_again(model: PreTrainedModel) -> None:
    """Have the Trainer treat a model that transformers sharded as any other: averaging and saving are done here."""
    model._is_distributed_loading_by_transformers = False
    model._tp_size = None  # by which PEFT would gather the whole base to save an adapter
    del model.config.distributed_config  # it would be written beside the weights


def wrapped(model: nn.Module) -> nn.Module:
    """Return a model with a method attached, of which PEFT calls the base's ``forward`` and no hook of its own."""
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    if inner is not model and sharded(inner):
        register_fsdp_forward_method(inner, "forward")
    return model


def settle(model: nn.Module) -> nn.Module:
    """Let go of what was gathered for a pass that no backward pass followed; then every process has its part alone."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return model


def rows_of(tensor: DTensor) -> slice:
    """Return which rows of a sharded tensor this process holds: as ``torch.chunk`` deals them."""
    step = -(-tensor.shape[0] // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * step, tensor.shape[0])
    return slice(start, start + tensor.to_local().shape[0])


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor's numbers, gathered where they are in parts; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def plain_class(module: nn.Module) -> Any:
    """Return what a module was an instance of before torch sharded it."""
    return next(cls for cls in type(module).__mro__ if not issubclass(cls, FSDPModule))


def whole_copy(module: nn.Module) -> nn.Module:
    """Return a copy of a small module that every process holds whole; every process must ask.

    torch refuses to copy a sharded module, whose hooks and tensors belong to its group.
    """
    if not any(isinstance(tensor, DTensor) for tensor in module.parameters()):
        return deepcopy(module)
    kind = plain_class(module)
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    plain = {key for key in vars(module) if not key.startswith("__")} - set(vars(nn.Module()))
    made.__dict__.update({key: deepcopy(vars(module)[key]) for key in plain})
    for name, tensor in module._parameters.items():  # also those that are None, such as a bias
        copied = None if tensor is None else nn.Parameter(whole(tensor.detach()).clone(), tensor.requires_grad)
        made.register_parameter(name, copied)
    for name, buffer in module._buffers.items():
        made.register_buffer(name, deepcopy(buffer), name not in module._non_persistent_buffers_set)
    for name, child in module.named_children():
        made.add_module(name, whole_copy(child))
    return made  # type: ignore[no-any-return]
