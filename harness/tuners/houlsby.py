"""Houlsby adapters (Houlsby et al. 2019, arXiv 1902.00751, section 2.1) as a tuner of PEFT.

Importing this module makes ``HOULSBY`` a tuner of the installed PEFT, so ``get_peft_model``,
``PeftModel.from_pretrained``, ``disable_adapter`` and ``set_adapter`` know it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PEFT_TYPE_TO_TUNER_MAPPING, PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_target_module_exists
from peft.utils import register_peft_method
from torch import nn
from transformers.activations import ACT2FN

from harness.distributed.shard import whole_copy

PROJECTIONS: tuple[tuple[str, str], ...] = (
    ("attention.output.dense", "output.dense"),  # BERT, RoBERTa, ELECTRA, XLM-R, DeBERTa
    ("self_attn.o_proj", "mlp.down_proj"),  # Llama, SmolLM2, Mistral, Qwen, Gemma, Phi-3, OLMo
    ("attn.c_proj", "mlp.c_proj"),  # GPT-2
    ("attn.Wo", "mlp.Wo"),  # ModernBERT
    ("attention.out_lin", "ffn.lin2"),  # DistilBERT
    ("attention.attn.o", "output.dense"),  # MPNet
    ("self_attn.out_proj", "fc2"),  # OPT
    ("self_attn.dense", "mlp.fc2"),  # Phi
    ("attention.dense", "mlp.dense_4h_to_h"),  # GPT-NeoX, Pythia
    ("self_attention.dense", "mlp.dense_4h_to_h"),  # BLOOM, Falcon
    ("attn.attention.out_proj", "mlp.c_proj"),  # GPT-Neo
)
"""How the names of the two projections back to d end: attention's, and the feed-forward layer's."""


@dataclass
class HoulsbyConfig(PeftConfig):  # type: ignore[misc]
    """Configuration of Houlsby adapters."""

    bottleneck_size: int = 64
    """m, the width of the bottleneck."""
    activation: str = "gelu"
    """The nonlinearity between the two projections, by transformers' name."""
    train_layer_norms: bool = True
    """Train a copy of every norm too, as the paper does."""
    target_modules: list[str] | set[str] | str | None = None
    """Layers whose output passes a bottleneck; None takes both projections of every layer."""
    norm_modules: list[str] | None = None
    """Full names of the norms to train; None with `train_layer_norms` takes all outside `modules_to_save`."""
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    """Modules trained and saved whole, such as a new head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("HOULSBY")
        if self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size={self.bottleneck_size}: must be at least 1")


class Bottleneck(nn.Module):
    """x + W_up f(W_down x + b_down) + b_up: 2dm + d + m parameters, the identity at the start.

    W_down starts as the paper's normal distribution of deviation 0.01, cut off at two deviations
    (section 3.6). W_up starts at zero where the paper has the same small normal: the output then is x
    exactly, so that training starts from the very model that is compared with.
    """

    def __init__(self, width: int, size: int, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        self.activation = ACT2FN[activation]
        nn.init.trunc_normal_(self.down.weight, std=0.01, a=-0.02, b=0.02)
        for zeros in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zeros)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute in the bottleneck's own precision, which PEFT keeps at float32, and return that of `x`."""
        inner = self.activation(self.down(x.to(self.down.weight.dtype)))
        return x + cast("torch.Tensor", self.up(inner)).to(x.dtype)


class HoulsbyLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A wrapped layer of the base with one trained module for each adapter."""

    adapter_layer_names: tuple[str, ...] = ()

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer

    @property
    def trained(self) -> nn.ModuleDict:
        """Return the trained modules by the names of their adapters."""
        return cast(nn.ModuleDict, self.get_submodule(self.adapter_layer_names[0]))

    def add(self, adapter_name: str, config: HoulsbyConfig) -> None:
        """Add the adapter's own module, on the device of the base layer."""
        self.trained[adapter_name] = self.create(config)
        cast(Any, self)._move_adapter_to_device_of_base_layer(adapter_name)

    @abstractmethod
    def create(self, config: HoulsbyConfig) -> nn.Module:
        """Return a new trained module for this layer."""

    def active_module(self) -> nn.Module | None:
        """Return the active adapter's module, None where adapters are off or none is active here."""
        names = [] if self.disable_adapters else cast("list[str]", self.active_adapters)
        active = [name for name in names if name in self.trained]
        if len(active) > 1:
            raise ValueError(f"one Houlsby adapter can be active at a time, not {active}")
        return self.trained[active[0]] if active else None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: a bottleneck is not linear, so no weights of the base compute the same."""
        raise ValueError("a Houlsby adapter cannot be folded into the base's weights")


class HoulsbyProjection(HoulsbyLayer):
    """A projection back to d, whose output passes a bottleneck before the residual connection adds to it."""

    adapter_layer_names = ("houlsby_bottleneck",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.houlsby_bottleneck = nn.ModuleDict()

    def create(self, config: HoulsbyConfig) -> nn.Module:
        """Return a bottleneck as wide as the layer's output."""
        return Bottleneck(output_width(cast(Any, self).get_base_layer()), config.bottleneck_size, config.activation)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Pass the base layer's output through the active bottleneck."""
        output: torch.Tensor = self.base_layer(x, *args, **kwargs)
        bottleneck = self.active_module()
        return output if bottleneck is None else cast("torch.Tensor", bottleneck(output))


class HoulsbyNorm(HoulsbyLayer):
    """A norm that each adapter has a trained copy of.

    PEFT's ``modules_to_save`` would keep the copy in the base's precision, and in bfloat16 the step
    from 1 to the next weight is 0.0078: a learning rate of 1e-3 would never move it. In a tuner's layer
    PEFT holds the copy in float32.
    """

    adapter_layer_names = ("houlsby_norm",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.houlsby_norm = nn.ModuleDict()

    def create(self, config: HoulsbyConfig) -> nn.Module:
        """Return a copy of the base's norm, so an untrained adapter changes nothing."""
        return whole_copy(cast(nn.Module, cast(Any, self).get_base_layer())).requires_grad_(True)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Normalise by the active copy, in its precision, and return that of `x`."""
        norm = self.active_module()
        if norm is None:
            return cast("torch.Tensor", self.base_layer(x, *args, **kwargs))
        # torch's LayerNorm wants its input in its own dtype; the RMSNorms of models round in between as the base's do.
        given = x.to(norm.weight.dtype) if isinstance(norm, nn.LayerNorm) else x
        return cast("torch.Tensor", norm(given, *args, **kwargs)).to(x.dtype)


class HoulsbyModel(BaseTuner):  # type: ignore[misc]
    """A model with Houlsby adapters: two serial bottlenecks a layer, and trained norms."""

    prefix = "houlsby_"
    tuner_layer_cls = HoulsbyLayer

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        config = cast(HoulsbyConfig, peft_config)
        if config.target_modules is None:
            config.target_modules = projections(self.model)
        if not config.target_modules:
            raise ValueError(f"the projections of {type(self.model).__name__} are not known; set target_modules")
        if config.train_layer_norms and config.norm_modules is None:
            config.norm_modules = [name for name in norms(self.model) if not _saved_whole(name, config)]
        return config

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """Leave the adapter's name out of a saved key; PEFT's rule does not reach into a bottleneck."""
        inside = f".houlsby_bottleneck.{adapter_name}."
        if inside in key:
            return key.replace(inside, ".houlsby_bottleneck.")
        return cast(str, super()._remove_adapter_name_from_key(key, adapter_name))

    @staticmethod
    def _check_target_module_exists(peft_config: PeftConfig, key: str) -> Any:
        config = cast(HoulsbyConfig, peft_config)
        return check_target_module_exists(config, key) or key in (config.norm_modules or ())

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        config = cast(HoulsbyConfig, peft_config)
        if not isinstance(target, HoulsbyLayer):
            wrapper = HoulsbyNorm if current_key in (config.norm_modules or ()) else HoulsbyProjection
            base, target = target, wrapper(target)
            self._replace_module(parent, target_name, target, base)
        target.add(adapter_name, config)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Replace a module and no more: on unloading, PEFT's asks a head of several layers for its weight."""
        setattr(parent, child_name, new_module)


def projections(model: nn.Module) -> list[str]:
    """Return how the names of a layer's two projections end, none where the architecture is unknown."""
    names = [name for name, _ in _base_modules(model)]
    for attention, feed_forward in PROJECTIONS:
        after_attention = {name for name in names if name.endswith(f".{attention}")}
        after_feed_forward = {name for name in names if name.endswith(f".{feed_forward}")} - after_attention
        if after_attention and len(after_attention) == len(after_feed_forward):
            return [attention, feed_forward]
    return []


def norms(model: nn.Module) -> list[str]:
    """Return the full names of a model's norms that have weights: LayerNorm, and RMSNorm in newer models."""
    return [
        name
        for name, module in _base_modules(model)
        if isinstance(module, HoulsbyNorm)
        or (type(module).__name__.endswith("Norm") and any(True for _ in module.parameters(recurse=False)))
    ]


def output_width(layer: nn.Module) -> int:
    """Return the output features of a linear layer: `out_features`, or `nf` for GPT-2's Conv1D."""
    width = getattr(layer, "out_features", None) or getattr(layer, "nf", None)
    if width is None:
        raise ValueError(f"{type(layer).__name__} is not a linear layer that an adapter can follow")
    return int(width)


def _base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the base's modules by name, leaving out what tuners put inside their layers."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, BaseTunerLayer):
            inside = (*inside, f"{name}.")
        yield name, module


def _saved_whole(name: str, config: HoulsbyConfig) -> bool:
    return any(f".{module}." in f".{name}." for module in config.modules_to_save or ())


def register() -> None:
    """Make HOULSBY a tuner of PEFT; calling it again changes nothing.

    PEFT keys all its tables by members of the enum ``PeftType``, and ``register_peft_method`` refuses a
    name that is not one. Python closes an enum when it is defined, so the member is entered into the
    tables that lookups by attribute, by name and by value read.
    """
    if "HOULSBY" not in PeftType.__members__:
        member = str.__new__(PeftType, "HOULSBY")
        member._name_ = member._value_ = "HOULSBY"
        type.__setattr__(PeftType, "HOULSBY", member)
        PeftType._member_map_["HOULSBY"] = member
        PeftType._value2member_map_["HOULSBY"] = member
        PeftType._member_names_.append("HOULSBY")
    houlsby = PeftType("HOULSBY")
    if houlsby not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name="houlsby", config_cls=HoulsbyConfig, model_cls=HoulsbyModel)


register()
