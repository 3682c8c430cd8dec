"""The real model with the real method attached, and not a single weight.

The architecture is built on torch's meta device. Then each tensor becomes a fake one: it has a shape, a dtype, a
storage and a device, and no numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules.module import register_module_buffer_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from harness.config import ModelConfig, RunConfig
from harness.errors import ConfigError, NotApplicable, first_line
from harness.execution.loading import attach
from harness.models import Backbone, head_of, keep_contiguous, kind_of_architecture, size
from harness.planning.quantised import copy_state, quantise
from harness.planning.words import StandIn
from harness.runtime import Runtime
from harness.storage.assets import Files


@dataclass(frozen=True)
class Blueprint:
    """What a skeleton is built from."""

    architecture: dict[str, Any]
    model: ModelConfig
    outputs: int
    """The width of an encoder's head."""
    dtype: torch.dtype
    quantization: Any = None

    @property
    def kind(self) -> str:
        """Return ``decoder`` or ``encoder``."""
        return kind_of_architecture(self.architecture, self.model)


def weightless(blueprint: Blueprint) -> Backbone:
    """Return the backbone on the meta device; 4- and 8-bit layers in the place of those that would be quantised.

    Raises :class:`ConfigError` for an architecture that transformers does not have.
    """
    kind, asked = blueprint.kind, blueprint.architecture
    try:
        config = AutoConfig.for_model(**{**asked, **({} if kind == "decoder" else {"num_labels": blueprint.outputs})})
        auto: Any = AutoModelForCausalLM if kind == "decoder" else AutoModelForSequenceClassification
        with torch.device("meta"):
            model = auto.from_config(config, dtype=blueprint.dtype)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("model", blueprint.model.name, f"cannot be built: {first_line(error)}") from error
    head = head_of(model, kind, missing(model, asked) if kind == "encoder" else set())
    if blueprint.quantization is not None:
        quantise(model, blueprint.quantization, head)
    if kind == "decoder":
        keep_contiguous(model)
    files = Files(Path(blueprint.model.path or "."), {}, "architecture alone")
    words: Any = StandIn(config)
    return Backbone(model, words, kind, head, files, sum(map(size, model.parameters())))


def missing(model: PreTrainedModel, architecture: dict[str, Any]) -> set[str]:
    """Return the parameters that the checkpoint's own class lacks, which start anew beside a new head.

    A masked language model has no pooler, whatever the class that reads its files for classification has.
    """
    stored = _stored_class(architecture)
    if stored is None or isinstance(model, stored):
        return set()
    with torch.device("meta"):
        checkpoint = stored(model.config)
    prefix = f"{model.base_model_prefix}."  # which a checkpoint of the bare model does not have
    known = {name.removeprefix(prefix) for name, _ in checkpoint.named_parameters()}
    return {name for name, _ in model.named_parameters() if name.removeprefix(prefix) not in known}


def _stored_class(architecture: dict[str, Any]) -> Any:
    import transformers

    names = architecture.get("architectures") or [MODEL_MAPPING_NAMES.get(architecture.get("model_type", ""), "")]
    return getattr(transformers, str(names[0]), None)


def with_method(config: RunConfig, blueprint: Blueprint, runtime: Runtime, mode: FakeTensorMode) -> Skeleton:
    """Return the skeleton with the run's method attached, every tensor of it fake.

    Most methods attach to fake tensors. A few tuners look at the numbers of their own adapters while they are made:
    these are made of real numbers beside weights that have none, and lose them afterwards.

    Raises :class:`NotApplicable` where the method does not fit, :class:`ConfigError` where it needs real weights.
    """
    problems: list[Exception] = []
    for way in (_on_fake, _on_meta):
        backbone = weightless(blueprint)
        reason = config.method.unsuitable(backbone)
        if reason is not None:
            raise NotApplicable(reason)
        try:
            return Skeleton(way(config, backbone, runtime, mode), backbone)
        except (RuntimeError, ValueError, TypeError) as error:
            problems.append(error)
    raise ConfigError(
        "method", config.method.name, f"cannot be attached without weights: {first_line(problems[-1])}"
    ) from problems[0]


@dataclass(frozen=True)
class Skeleton:
    """A model without numbers that is ready to train."""

    model: nn.Module
    backbone: Backbone


def _on_fake(config: RunConfig, backbone: Backbone, runtime: Runtime, mode: FakeTensorMode) -> nn.Module:
    with without_numbers(mode):
        make_fake(backbone.model)
    with without_numbers(mode), Patience(backbone.model):
        model = attach(config, backbone, runtime)
        make_fake(model)
    return model


def _on_meta(config: RunConfig, backbone: Backbone, runtime: Runtime, mode: FakeTensorMode) -> nn.Module:
    handle: Any = register_module_buffer_registration_hook(cast(Callable[..., None], _emptied))
    try:
        model = attach(config, backbone, replace(runtime, device=torch.device("meta")))
    finally:
        handle.remove()
    with without_numbers(mode):
        make_fake(model)
    return model


def _emptied(_: nn.Module, __: str, buffer: torch.Tensor | None) -> torch.Tensor | None:
    """Take the numbers of a large buffer away: BOFT makes 75 MB of permutations for each layer of width 3072."""
    large = buffer is not None and buffer.numel() * buffer.element_size() >= 2**20
    return buffer.to("meta") if buffer is not None and large else buffer


class Patience(TorchDispatchMode):
    """Ends an attachment that loops over single numbers: a fake operation takes 100 µs and more, a real one 5."""

    MOST = 50
    """Operations for each module of the model, on average; BOFT takes 800 in a model of 3B."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.left = self.MOST * sum(1 for _ in model.modules())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("attaching the method takes too many operations")
        return func(*args, **(kwargs or {}))


@contextmanager
def without_numbers(mode: FakeTensorMode) -> Iterator[None]:
    """Make every new tensor inside fake, and let modules be moved and cast that hold fake ones."""
    with mode, castable():
        yield


@contextmanager
def castable() -> Iterator[None]:
    """Let modules be moved and cast that hold fake tensors; new tensors inside are real.

    torch would swap a fake parameter's contents for those of the cast one, which a weak reference to it forbids.
    """
    with patch.object(nn.Module, "_apply", _apply), patch.object(FakeTensor, "data_ptr", _address, create=True):
        yield


def _address(tensor: torch.Tensor) -> int:
    """Return what tells storages apart, as an address does; the Trainer counts shared embeddings by theirs."""
    return tensor.untyped_storage()._cdata


def _apply(module: nn.Module, change: Any, recurse: bool = True) -> nn.Module:
    """Do what ``nn.Module._apply`` does, putting a parameter that changes in the place of the old one."""
    for child in module.children() if recurse else ():
        child._apply(change)
    for name, old in module._parameters.items():
        if old is not None:
            with torch.no_grad():
                new = change(old)
            if new is not old:
                module._parameters[name] = nn.Parameter(new, old.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def make_fake(model: nn.Module) -> None:
    """Put an empty fake tensor in the place of each that is none; what was shared stays shared."""
    made: dict[int, Any] = {}

    def fake(tensor: torch.Tensor) -> Any:
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in made:  # with the tensor itself, whose id would be another's once it is gone
            made[id(tensor)] = _fake(tensor, fake), tensor
        return made[id(tensor)][0]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake(tensor)


def _fake(tensor: torch.Tensor, fake: Any) -> Any:
    empty: Any = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        copy_state(tensor, empty, fake)
    return empty
