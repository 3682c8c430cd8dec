"""What a base becomes once it is quantised: the weights that QLoRA and LoftQ train over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

SCHEMES = ("nf4", "fp4", "int8")
BLOCK = 64
"""Weights that share one scale, as in QLoRA (arXiv 2305.14314)."""


@dataclass(frozen=True)
class Quantisation:
    """How a base was quantised before training."""

    scheme: str
    double: bool = True
    """Whether the scales are quantised too; for 4 bits only."""
    dtype: str = "float32"
    """The dtype the base was loaded in, from which it was quantised and to which it is dequantised."""
    adapted_only: bool = False
    """Whether only the layers under an adapter were quantised, as LoftQ does."""

    def __call__(self, stored: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """Return dequant(quant(W0)) of a weight in the layout it is stored in, which decides its blocks."""
        weight = stored.to(getattr(torch, self.dtype)).contiguous()
        return (int8(weight) if self.scheme == "int8" else self._four_bits(weight)).float()

    def _four_bits(self, weight: Tensor) -> Tensor:
        # Says at import that a faster kernel could be fetched from the hub, which is no error.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        quantise = cast("Callable[..., tuple[Tensor, object]]", quantize_4bit)
        packed, state = quantise(weight, blocksize=BLOCK, compress_statistics=self.double, quant_type=self.scheme)
        restored: Tensor = dequantize_4bit(packed, state)
        return restored


def int8(weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Return the weight after LLM.int8's row-wise rounding, round(127 w / max|w|) (arXiv 2208.07339, section 2.1)."""
    # bitsandbytes rounds from half precision, whatever the model's dtype.
    half = weight.half().float()
    scale = half.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (half * (127 / scale)).round() * (scale / 127)
