"""What a fine-tuning method must say of itself, and the registry of all methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from harness.config import require_positive
from harness.errors import ConfigError
from harness.registry import Registry

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn

    from harness.models import Backbone
    from harness.runtime import Runtime

METHODS: Registry[Method] = Registry("method")
TRAINED = "trained.safetensors"


@dataclass
class Method(ABC):
    """A way to fine-tune: how it changes the loaded model, what trains, how that is saved and loaded.

    A subclass registered with ``@METHODS.register("name")`` is a choice of ``method=``. Modules of this
    package import torch, transformers and peft inside functions only, so configuration stays instant.
    """

    name: ClassVar[str] = "method"
    mergeable: ClassVar[bool] = True
    """Whether the trained model can be written as a plain model of the base's architecture."""
    leaves_matrices: ClassVar[str | None] = None
    """Why no weight matrix of the base changes, None where some do: such a run has no ΔW, which is not ΔW = 0."""

    adapters: ClassVar[tuple[str, ...]] = ("",)
    """Folders inside an exported adapter, in the order in which PEFT opens them on the base."""
    left_by_merge: ClassVar[tuple[str, ...]] = ()
    """Those of `adapters` that are no part of the weights and are written beside a merged model."""

    learning_rate: float = 1e-3
    """The method's own default, used unless ``train.learning_rate`` is given."""

    def __post_init__(self) -> None:
        require_positive("method.learning_rate", self.learning_rate)

    @property
    def rank_used(self) -> int | None:
        """Return the rank where the method has one; the result table shows it."""
        return getattr(self, "rank", None)

    def preflight(self) -> None:  # noqa: B027 a choice, no duty
        """Refuse settings that need a library to judge, before anything is trained."""

    def on(self, runtime: Runtime) -> Self:
        """Return the method with what its defaults leave to the machine filled in; `resolved` names those fields."""
        return self

    def resolved(self) -> dict[str, Any]:
        """Return the fields that `on` filled in, which the record has besides the configuration."""
        return {}

    def quantization(self) -> Any:
        """Return the ``BitsAndBytesConfig`` the base must be loaded with, None for none."""
        return None

    def quantised_base(self) -> tuple[str, bool] | None:
        """Return the scheme that the base's weights were rounded by and whether its scales were too, None for none."""
        return None

    def optimizer(self) -> str:
        """Return the optimiser used unless ``train.optim`` is given."""
        return "adamw_torch"

    def unsuitable(self, backbone: Backbone) -> str | None:
        """Return why the method cannot apply to this model, None where it can."""
        return None

    def needs_whole_base(self) -> str | None:
        """Return why every process must hold the whole base, None where each may hold a part."""
        if self.quantised_base() is not None:
            return "FSDP2 breaks bitsandbytes' quantised parameters (bitsandbytes issue 1945)"
        return None

    @abstractmethod
    def attach(self, backbone: Backbone) -> nn.Module:
        """Change the loaded model and mark what trains; the task's new head always trains."""

    def create_optimizer(self, model: nn.Module, cls: type, options: dict[str, Any]) -> torch.optim.Optimizer | None:
        """Return an optimiser with groups of the method's own, None for the usual ones."""
        return None

    @abstractmethod
    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained state, safetensors only."""

    @abstractmethod
    def load(self, model: nn.Module, folder: Path) -> None:
        """Read a trained state into a model that `attach` has prepared."""

    def merge(self, model: nn.Module) -> nn.Module:
        """Return a plain model of the base's architecture whose outputs equal the tuned model's."""
        return model

    def export_adapter(self, model: nn.Module, folder: Path) -> None:
        """Write a standard PEFT adapter folder."""
        raise ConfigError("run", self.name, "trains no adapter; export it with merge=true")

    def adapter_configs(self, model: nn.Module) -> list[PeftConfig]:
        """Return PEFT's configurations of what `adapters` names, in that order."""
        return [cast("Any", model).peft_config["default"]]


@dataclass
class DirectMethod(Method):
    """A method that trains some of the model's own parameters and adds no modules."""

    @abstractmethod
    def trains(self, name: str, parameter: nn.Parameter, backbone: Backbone) -> bool:
        """Return whether the base's parameter `name` trains."""

    def attach(self, backbone: Backbone) -> nn.Module:
        """Set ``requires_grad`` on what trains, head included, and on nothing else."""
        for name, parameter in backbone.model.named_parameters():
            parameter.requires_grad_(backbone.in_head(name) or self.trains(name, parameter, backbone))
        return cast("nn.Module", backbone.model)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained parameters alone."""
        save_tensors(trainable(model), folder / TRAINED)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Copy the trained parameters back, refusing any that do not fit."""
        load_tensors(trainable(model), folder / TRAINED)


def trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors as one safetensors file, gathered where several processes hold parts of them."""
    from harness.distributed.state import write_tensors

    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, path)


def load_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copy a safetensors file's tensors into `tensors`; the names must be the same."""
    from harness.distributed.state import names_in, read_tensors

    check_names(names_in(path), tensors, path)
    read_tensors(tensors, path)


def check_names(stored: Iterable[str], wanted: Iterable[str], path: Path) -> None:
    """Raise a :class:`ConfigError` naming a tensor that only one side has."""
    odd = sorted(set(stored) ^ set(wanted))
    if odd:
        raise ConfigError("run", path, f"does not fit this model: {odd[0]} is on one side only")
