"""Layers in 4 or 8 bits with nothing in them: the tensors that bitsandbytes makes, by shape and dtype."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import QuantState
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import replace_with_bnb_linear
from transformers.quantizers.base import HfQuantizer

BLOCK = 64
"""Weights that share a scale, of 32 bits, or of 8 with double quantisation: bitsandbytes' default."""
NESTED_BLOCK = 256
"""Scales that share a scale of their own under double quantisation."""


def quantise(model: PreTrainedModel, settings: Any, head: tuple[str, ...]) -> None:
    """Put layers of `settings`, a ``BitsAndBytesConfig``, in the place of those that loading would quantise."""
    skipped = HfQuantizer.get_modules_to_not_convert(model, list(head) or None, model._keep_in_fp32_modules)
    dtype = model.dtype
    replace_with_bnb_linear(model, modules_to_not_convert=skipped, quantization_config=settings)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = settings.load_in_4bit, settings.load_in_8bit
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.weight = _in_4_bits(module.weight, settings, dtype)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            module.weight = _in_8_bits(module.weight)
            module.state.threshold = 0.0  # columns of outliers are found by looking at the activations' numbers


def _in_4_bits(weight: torch.Tensor, settings: Any, dtype: torch.dtype) -> nn.Parameter:
    values = weight.numel()
    packed: Any = nn.Parameter(_empty((values + 1) // 2, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = _state(weight.shape, settings, dtype)
    packed.quant_type = settings.bnb_4bit_quant_type
    packed.compress_statistics = settings.bnb_4bit_use_double_quant
    packed.quant_storage, packed.blocksize, packed.bnb_quantized = torch.uint8, BLOCK, True
    return packed  # type: ignore[no-any-return]


def _state(shape: torch.Size, settings: Any, dtype: torch.dtype) -> QuantState:
    scales = -(-shape.numel() // BLOCK)
    nested: dict[str, Any] = {}
    if settings.bnb_4bit_use_double_quant:
        own = QuantState(
            _empty(-(-scales // NESTED_BLOCK)), code=_empty(256), blocksize=NESTED_BLOCK, dtype=torch.float32
        )
        nested = {"offset": _empty(), "state2": own}
    return QuantState(
        _empty(scales, dtype=torch.uint8 if nested else torch.float32),
        shape,
        code=_empty(16),
        blocksize=BLOCK,
        quant_type=settings.bnb_4bit_quant_type,
        dtype=dtype,
        **nested,
    )


def _in_8_bits(weight: torch.Tensor) -> nn.Parameter:
    packed: Any = nn.Parameter(_empty(*weight.shape, dtype=torch.int8), requires_grad=False)
    packed.CB, packed.SCB, packed.has_fp16_weights = packed.data, _empty(weight.shape[0]), False
    return packed  # type: ignore[no-any-return]


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def copy_state(old: Any, new: Any, fake: Any) -> None:
    """Give `new` what `old` carries besides its own values, each tensor of it through `fake`."""
    for name, value in vars(old).items():
        if name == "CB":
            setattr(new, name, new.data)
        elif isinstance(value, torch.Tensor):
            setattr(new, name, fake(value))
        else:
            setattr(new, name, _with_tensors(value, fake) if isinstance(value, QuantState) else value)


def _with_tensors(state: QuantState, fake: Any) -> QuantState:
    for name in ("absmax", "code", "offset"):
        if getattr(state, name) is not None:
            setattr(state, name, fake(getattr(state, name)))
    if state.state2 is not None:
        _with_tensors(state.state2, fake)
    return state


def state_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Return the scales and tables of quantised layers, which are no parameters of theirs."""
    found: list[Any] = []
    for module in model.modules():
        weight = module._parameters.get("weight")
        state = getattr(weight, "quant_state", None)
        while state is not None:
            found += [state.absmax, state.code, state.offset]
            state = state.state2
        found.append(getattr(weight, "SCB", None))
    return [tensor for tensor in found if tensor is not None]
