"""Houlsby adapters (Houlsby et al. 2019, arXiv 1902.00751): two trained bottlenecks in each layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from harness.config import require_at_least
from harness.methods.base import METHODS
from harness.methods.peft import PeftMethod

if TYPE_CHECKING:
    from peft import PeftConfig

    from harness.models import Backbone


class Activation(Enum):
    """The nonlinearity inside a bottleneck."""

    gelu = "gelu"
    relu = "relu"
    silu = "silu"
    tanh = "tanh"


@METHODS.register("adapter")
@dataclass
class HoulsbyAdapter(PeftMethod):
    """Train x + W_up f(W_down x) after each layer's attention and feed-forward projection, and the norms.

    With d the model's width and m = `size`, a bottleneck has 2dm + d + m parameters and a layer two of
    them. They start as the identity, so the untrained model's outputs are the base's exactly.
    """

    mergeable: ClassVar[bool] = False
    leaves_matrices: ClassVar[str | None] = "bottleneck adapters are new layers; the base's matrices stay as they were"

    learning_rate: float = 3.16e-3
    size: int = 64
    """m, the width of the bottleneck."""
    activation: Activation = Activation.gelu
    train_layer_norms: bool = True
    """Train the norms too, as the paper does."""
    target_modules: list[str] = field(default_factory=list)
    """Names of the layers a bottleneck follows, instead of both projections of each layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("method.size", self.size, 1)

    def unsuitable(self, backbone: Backbone) -> str | None:
        """Where the two projections of a layer are called by unknown names, the user must say them."""
        from harness.tuners.houlsby import projections

        if self.target_modules or projections(backbone.model):
            return None
        model = type(backbone.model).__name__
        return f"the layers after which {model} would get adapters are not known; set method.target_modules"

    def peft_config(self, backbone: Backbone) -> PeftConfig:
        """Return the configuration of the Houlsby tuner."""
        from harness.tuners.houlsby import HoulsbyConfig

        return HoulsbyConfig(
            bottleneck_size=self.size,
            activation=self.activation.value,
            train_layer_norms=self.train_layer_norms,
            target_modules=list(self.target_modules) or None,
        )
