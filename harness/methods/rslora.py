"""rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): W = W0 + (alpha / √r) B A, with alpha constant in r."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from harness.methods.base import METHODS
from harness.methods.lora import LoRA


@METHODS.register("rslora")
@dataclass
class RsLoRA(LoRA):
    """LoRA with the rank-stabilised scale alpha / √r.

    alpha = 8 makes the scale 2 at r = 16, where it equals LoRA's default of alpha / r = 2. With
    alpha = 2r the scale would be 2√r and grow with the rank, which is what rsLoRA is there to prevent.
    """

    alpha: float | None = 8.0

    def scale(self) -> float:
        """Return what B A is multiplied by, alpha / √r."""
        return self.alpha_used() / math.sqrt(self.rank)

    def variant(self) -> dict[str, Any]:
        """Switch PEFT's scale to alpha / √r."""
        return {"use_rslora": True}
