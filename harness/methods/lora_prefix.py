"""LoRA with a prefix, as Hu et al. 2021 (arXiv 2106.09685) combine them in their appendix.

W = W0 + (alpha / r) B A in each target layer, and trained keys and values before each layer's own.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from harness.config import require, require_positive
from harness.methods.base import METHODS, trainable
from harness.methods.lora import Initialisation, LoRA, Targets
from harness.methods.peft import quiet_peft
from harness.methods.prefix import PrefixInit, PrefixTuning

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftConfig, PeftModel
    from torch import nn

    from harness.models import Backbone

PREFIX = "prefix"


@METHODS.register("lora_prefix")
@dataclass
class LoRAPrefix(LoRA):
    """Train LoRA's r (d_in + d_out) numbers a layer, and a prefix of 2 · layers · length · d.

    A new head trains with the prefix. Folding LoRA in leaves the prefix as an adapter of the merged model.
    """

    mergeable: ClassVar[bool] = False
    adapters: ClassVar[tuple[str, ...]] = ("lora", PREFIX)
    left_by_merge: ClassVar[tuple[str, ...]] = (PREFIX,)

    length: int = 20
    """Virtual tokens of the prefix."""
    prefix_init: PrefixInit = PrefixInit.auto
    """What the prefix starts as: `text` on decoders, `random` on encoders."""
    init_text: str = PrefixTuning.init_text
    prefix_rate_ratio: float = 10.0
    """Learning rate of the prefix over LoRA's: at rank 8 the ratio of the two methods' own, 3.16e-2 over 3.16e-3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("method.prefix_rate_ratio", self.prefix_rate_ratio)
        starts = (Initialisation.default, Initialisation.gaussian)
        allowed = "default or gaussian: under the others the base itself changes, beside which the prefix starts"
        require(self.init in starts, "method.init", self.init.value, allowed)
        self._prefix()

    def _prefix(self) -> PrefixTuning:
        return PrefixTuning(length=self.length, init=self.prefix_init, init_text=self.init_text)

    def unsuitable(self, backbone: Backbone) -> str | None:
        """Both parts must fit."""
        return super().unsuitable(backbone) or self._prefix().unsuitable(backbone)

    def peft_config(self, backbone: Backbone) -> LoraConfig:
        """Return PEFT's configuration of the LoRA part, which leaves a new head to the prefix."""
        config = super().peft_config(backbone)
        if backbone.head and self.targets is Targets.all_linear and not self.target_modules:
            config.exclude_modules = list(backbone.head)
        return config

    def attach(self, backbone: Backbone) -> nn.Module:
        """Put LoRA's layers into the base, then the prefix before them; what freezes the base froze LoRA too."""
        from peft import PeftModel

        config = self.peft_config(backbone)
        with quiet_peft():
            lora = PeftModel(backbone.model, config)
        trained = trainable(lora)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are trying to modify a model with PEFT for a second time")
            model = self._prefix().attach(backbone)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        model.harness_lora = (lora,)  # type: ignore[assignment]  # in a tuple, or its parameters would count twice
        return model

    def create_optimizer(self, model: nn.Module, cls: type, options: dict[str, Any]) -> torch.optim.Optimizer:
        """Give the prefix its own learning rate, and B its own where LoRA+ is asked for."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in trainable(model).items():
            groups.setdefault(self._rate_ratio(name), []).append(cast("nn.Parameter", parameter))
        split = [{"params": group, "lr": options["lr"] * ratio} for ratio, group in groups.items()]
        return cast("torch.optim.Optimizer", cls(split, **options))

    def _rate_ratio(self, name: str) -> float:
        if name.startswith("prompt_encoder."):
            return self.prefix_rate_ratio
        return (self.lora_plus_ratio or 1.0) if ".lora_B." in name else 1.0

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write LoRA as a PEFT adapter folder, from which its weight change is read, with the prefix's in it."""
        super().save(lora_of(model), folder)
        self._prefix().save(model, folder / PREFIX)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read both parts, every tensor of them."""
        super().load(lora_of(model), folder)
        self._prefix().load(model, folder / PREFIX)

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold LoRA into the base's weights; what is left is the prefix, an adapter of the merged base.

        PEFT's ``merge_and_unload`` would also take the head, which belongs to the prefix's adapter, out of its hands.
        """
        from peft.tuners.lora import LoraLayer

        base = cast("Any", lora_of(model)).get_base_model()
        for name, layer in [*base.named_modules()]:
            if isinstance(layer, LoraLayer):
                cast("Any", layer).merge()
                base.set_submodule(name, layer.get_base_layer())
        return model

    def export_adapter(self, model: nn.Module, folder: Path) -> None:
        """Write both parts as PEFT adapter folders; neither alone is the tuned model, so neither is at the top."""
        super().export_adapter(lora_of(model), folder / self.adapters[0])
        self._prefix().export_adapter(model, folder / PREFIX)

    def adapter_configs(self, model: nn.Module) -> list[PeftConfig]:
        """Return PEFT's configurations of both parts."""
        return [*super().adapter_configs(lora_of(model)), *super().adapter_configs(model)]


def lora_of(model: nn.Module) -> PeftModel:
    """Return PEFT's view of the LoRA part, which has its layers in common with the model."""
    return cast("PeftModel", cast("Any", model).harness_lora[0])
