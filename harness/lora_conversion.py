"""Writing any tuner that changes weights as a LoRA adapter, which serving systems read, and saying what that costs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.errors import ConfigError, RecordError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn


def rank_of(value: str) -> int | float:
    """Return ``as_lora``: a rank, or the share of each ΔW's squared singular values that is kept."""
    allowed = "must be a rank such as 8, or a share of the squared singular values such as 0.99"
    try:
        rank: int | float = int(value) if value.isdigit() else float(value)
    except ValueError:
        raise ConfigError("as_lora", value, allowed) from None
    if not (rank >= 1 if isinstance(rank, int) else 0 < rank < 1):
        raise ConfigError("as_lora", value, allowed)
    return rank


def require_convertible(model: nn.Module) -> None:
    """Raise :class:`ConfigError` where the adapter is LoRA already, or no change of weights that PEFT can convert."""
    from peft import PeftType
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = cast("Any", model).peft_config["default"]
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind == PeftType.LORA.value:
        raise ConfigError("as_lora", "", "the run's adapter is LoRA already; leave as_lora out")
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if not layers or not all(layer.supports_lora_conversion() for layer in layers):
        raise ConfigError("as_lora", "", f"{kind} is no change of weights that PEFT converts; leave as_lora out")


def write(model: nn.Module, target: Path, rank: int | float, described: dict[str, Any]) -> None:
    """Write ΔW of every layer, cut to `rank` by its singular values, as a LoRA adapter; `described` is its base."""
    from peft import LoraConfig
    from peft.tuners.lora.conversion import save_as_lora

    try:
        save_as_lora(target, model, rank=rank)
    except (TypeError, ValueError) as error:
        raise ConfigError("as_lora", rank, first_line(error)) from error
    config = LoraConfig.from_pretrained(str(target))
    for key, value in described.items():
        setattr(config, key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config.save_pretrained(str(target))


def account(found: torch.Tensor, wanted: torch.Tensor) -> str:
    """Say by how much logits differ, and at how many positions the largest is another; raise where one is no number."""
    difference, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
    if not difference < float("inf"):
        raise RecordError("the converted adapter gives logits that are no numbers")
    same = found.argmax(-1) == wanted.argmax(-1)
    kept = f"the largest logit is the same at {int(same.sum())} of {same.numel()} positions"
    return f"max |difference of logits| is {difference:.1e}, {difference / largest:.1e} of max |logit|; {kept}"
