"""Prefix tuning (Li & Liang 2021, arXiv 2101.00190): trained keys and values before each layer's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.config import require_at_least
from harness.methods.base import METHODS
from harness.methods.peft import PeftMethod, no_past

if TYPE_CHECKING:
    from peft import PeftConfig

    from harness.models import Backbone


@METHODS.register("prefix")
@dataclass
class PrefixTuning(PeftMethod):
    """Train 2 · layers · length · d numbers: keys and values of virtual tokens in every layer."""

    mergeable: ClassVar[bool] = False
    leaves_matrices: ClassVar[str | None] = "prefix tuning adds keys and values and changes no weight matrix"

    learning_rate: float = 3e-2
    length: int = 20
    """Virtual tokens."""
    projection: bool = False
    """Compute the prefix by a small network while training, as the paper does."""
    projection_size: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("method.length", self.length, 1)
        require_at_least("method.projection_size", self.projection_size, 1)

    def unsuitable(self, backbone: Backbone) -> str | None:
        """The prefix enters as past keys and values, which some architectures do not take."""
        return no_past(backbone)

    def peft_config(self, backbone: Backbone) -> PeftConfig:
        """Return PEFT's configuration of the prefix."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            num_virtual_tokens=self.length,
            prefix_projection=self.projection,
            encoder_hidden_size=self.projection_size if self.projection else None,
        )
