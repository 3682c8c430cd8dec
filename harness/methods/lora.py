"""LoRA (Hu et al. 2021, arXiv 2106.09685): W = W0 + (alpha / r) B A, with B = 0 at the start."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.config import require, require_at_least, require_positive, require_share
from harness.errors import NotApplicable
from harness.methods.base import METHODS, save_tensors
from harness.methods.peft import PeftMethod

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from torch import nn

    from harness.models import Backbone


class Targets(Enum):
    """Which layers get an update."""

    all_linear = "all_linear"
    """Every linear layer of the blocks: today's practice."""
    qv = "qv"
    """The query and value projections: the LoRA paper's choice, by PEFT's table of architectures."""


class Initialisation(Enum):
    """How A and B start; PiSSA and OLoRA also change the frozen base by what they start with."""

    default = "default"
    gaussian = "gaussian"
    pissa = "pissa"
    olora = "olora"
    loftq = "loftq"


MOVING = (Initialisation.pissa, Initialisation.olora)
"""Starts that move a part of W0 from the base into the adapter."""
DECOMPOSED = (*MOVING, Initialisation.loftq)
"""Starts that come of a decomposition, which has no more columns than the matrix."""


@METHODS.register("lora")
@dataclass
class LoRA(PeftMethod):
    """Train a low-rank update of each target layer, W0 + (alpha / r) B A."""

    learning_rate: float | None = None  # type: ignore[assignment]  # filled in below, so that readers see a number
    """None is the default of rank and scale, :meth:`own_rate`."""
    rank: int = field(default="${rank}")  # type: ignore[assignment]  # Hydra fills in the top-level rank
    alpha: float | None = None
    """Scale of the update; None is 2 * rank, which keeps alpha / r = 2 at every rank."""
    dropout: float = 0.0
    targets: Targets = Targets.all_linear
    target_modules: list[str] = field(default_factory=list)
    """Module names instead of `targets`."""
    init: Initialisation = Initialisation.default
    dora: bool = False
    """Weight-decomposed LoRA (arXiv 2402.09353)."""
    lora_plus_ratio: float | None = None
    """Learning rate of B over that of A (LoRA+, arXiv 2402.12354)."""

    def __post_init__(self) -> None:
        require_at_least("rank", self.rank, 1)
        require_share("method.dropout", self.dropout)
        if self.alpha is not None:
            require_positive("method.alpha", self.alpha)
        if self.lora_plus_ratio is not None:
            require_positive("method.lora_plus_ratio", self.lora_plus_ratio)
        if self.learning_rate is None:
            self.learning_rate = self.own_rate()
        super().__post_init__()
        require(
            not (self.dora and self.init is Initialisation.loftq),
            "method.dora",
            True,
            "cannot be combined with method.init=loftq",
        )

    def own_rate(self) -> float:
        """Return the default learning rate, 3.16e-3 · (2 / s) · √(8 / r) with the scale s, to a quarter of a decade.

        A step of Adam changes s B A by about s √r times the rate, so that the best rate falls as 1 / (s √r).
        """
        exact = 3.16e-3 * (2 / self.scale()) * math.sqrt(8 / self.rank)
        return float(f"{10 ** (round(4 * math.log10(exact)) / 4):.3g}")

    def scale(self) -> float:
        """Return what B A is multiplied by, alpha / r."""
        return self.alpha_used() / self.rank

    def alpha_used(self) -> float:
        """Return alpha; 2r unless given, the default of "Illusion of Equivalence" (arXiv 2410.21228)."""
        return self.alpha if self.alpha is not None else 2.0 * self.rank

    def needs_whole_base(self) -> str | None:
        """A start by decomposition and DoRA's magnitudes are computed from whole matrices."""
        if self.init in DECOMPOSED:
            return f"method.init={self.init.value} decomposes whole matrices"
        return "method.dora takes norms of whole matrices" if self.dora else super().needs_whole_base()

    def unsuitable(self, backbone: Backbone) -> str | None:
        """PEFT's OLoRA knows one layout of weights, and its table of queries and values has gaps."""
        if self.init is Initialisation.olora and backbone.transposed:
            return "method.init=olora does not fit layers that store their weights transposed, as GPT-2's do"
        if not self._targets(backbone):
            model_type = backbone.model.config.model_type
            return f"PEFT knows no query and value layers of {model_type}; set method.target_modules"
        return None

    def quantised_base(self) -> tuple[str, bool] | None:
        """LoftQ starts from NF4 weights and what rounding took from them."""
        return ("nf4", False) if self.init is Initialisation.loftq else None

    def peft_config(self, backbone: Backbone) -> LoraConfig:
        """Return PEFT's configuration of this LoRA."""
        from peft import LoraConfig

        # LoftQ's start is computed in `attach`.
        plain = self.init in (Initialisation.default, Initialisation.loftq)
        return LoraConfig(
            r=self.rank,
            lora_alpha=cast(int, self.alpha_used()),
            lora_dropout=self.dropout,
            target_modules=self._targets(backbone),
            fan_in_fan_out=backbone.transposed,
            init_lora_weights=cast(Any, True if plain else self.init.value),
            use_dora=self.dora,
            **self.variant(),
        )

    def variant(self) -> dict[str, Any]:
        """Return what a relative of LoRA sets besides, such as rsLoRA's scale."""
        return {}

    def _targets(self, backbone: Backbone) -> list[str] | str:
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

        if self.target_modules:
            return list(self.target_modules)
        if self.targets is Targets.all_linear:
            return "all-linear"
        table = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
        return list(table.get(backbone.model.config.model_type, []))

    def create_optimizer(self, model: nn.Module, cls: type, options: dict[str, Any]) -> torch.optim.Optimizer | None:
        """Give B its own learning rate where LoRA+ is asked for.

        PEFT's ``create_loraplus_optimizer`` is not used: it trains every bias of a new head at B's rate and
        ignores the weight decay.
        """
        if self.lora_plus_ratio is None:
            return None
        from harness.methods.base import trainable

        parameters = trainable(model)
        groups = [
            {"params": [p for name, p in parameters.items() if ".lora_B." not in name]},
            {
                "params": [p for name, p in parameters.items() if ".lora_B." in name],
                "lr": options["lr"] * self.lora_plus_ratio,
            },
        ]
        return cast("torch.optim.Optimizer", cls(groups, **options))

    def attach(self, backbone: Backbone) -> nn.Module:
        """Attach; where B A does not start at zero, compute its start, or keep a copy of it for exporting."""
        model = super().attach(backbone)
        if self.init in DECOMPOSED:
            refuse_cut_rank(model, self.rank, self.init.value)
        if self.init is Initialisation.loftq:
            from harness.tuners.loftq import start_from_quantised

            start_from_quantised(model)
            # By this word PEFT knows, on loading, that the adapter belongs to a quantised base.
            config = cast(Any, model).peft_config["default"]
            config.init_lora_weights, config.loftq_config = "loftq", {"loftq_bits": 4, "loftq_iter": 1}
        if self.init in MOVING:
            from peft import get_peft_model_state_dict

            start = get_peft_model_state_dict(model, save_embedding_layers=False)
            model.harness_start = {name: tensor.detach().clone() for name, tensor in start.items()}  # type: ignore[assignment]
        return model

    def export_adapter(self, model: nn.Module, folder: Path) -> None:
        """Write a folder that fits the untouched base.

        PiSSA and OLoRA move A0 and B0 out of W0 into the adapter, so relative to the untouched base their
        update is B A - B0 A0 = [B, -B0] [A; A0], a LoRA of rank 2r. PEFT's own conversion
        (``path_initial_model_for_weight_conversion``) leaves out a new head and DoRA's magnitudes.
        """
        if self.init not in MOVING:
            super().export_adapter(model, folder)
            return
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        save_tensors(minus_start(tensors, cast(Any, model).harness_start), folder / "adapter_model.safetensors")
        config = replace(
            cast(Any, model).peft_config["default"],
            r=2 * self.rank,
            init_lora_weights=True,
            inference_mode=True,
        )
        # The scale is alpha / r, or alpha / sqrt(r) for rsLoRA; it must not change with the rank.
        config.lora_alpha *= 2**0.5 if config.use_rslora else 2
        config.save_pretrained(str(folder))


def refuse_cut_rank(model: nn.Module, rank: int, init: str) -> None:
    """Raise :class:`NotApplicable` where a matrix is too small to be decomposed into `rank` columns.

    PEFT would train fewer columns there and say nothing, so the record's rank would be wrong.
    """
    from peft.tuners.lora import LoraLayer

    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and rank > min(layer.in_features, layer.out_features):
            shape = f"{layer.out_features} x {layer.in_features}"
            layer_name = name.removeprefix("base_model.model.")
            raise NotApplicable(f"method.init={init} gives no rank {rank} for {layer_name} of {shape}")


def minus_start(tensors: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the adapter [B, -B0] [A; A0] of twice the rank, all other tensors as they are."""
    import torch

    joined = dict(tensors)
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            joined[name] = torch.cat([tensor, start[name]], dim=0)
        elif ".lora_B." in name:
            joined[name] = torch.cat([tensor, -start[name]], dim=1)
    return joined
