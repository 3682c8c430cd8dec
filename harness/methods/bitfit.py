"""BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): only the biases and the head train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.errors import ConfigError
from harness.methods.base import METHODS, DirectMethod

if TYPE_CHECKING:
    from torch import nn

    from harness.models import Backbone


@METHODS.register("bitfit")
@dataclass
class BitFit(DirectMethod):
    """Train every bias term, about 0.08 % of BERT's parameters, and the task's head."""

    leaves_matrices: ClassVar[str | None] = "BitFit changes biases and no weight matrix"

    learning_rate: float = 5.62e-3
    add_biases: bool = False
    """Give each linear layer without a bias one of zeros to train."""

    def unsuitable(self, backbone: Backbone) -> str | None:
        """Models of the Llama family have no biases at all."""
        if self.add_biases or any(
            name.endswith("bias") for name, _ in backbone.model.named_parameters() if not backbone.in_head(name)
        ):
            return None
        return "the model has no biases to train; method.add_biases=true gives it zero biases"

    def trains(self, name: str, parameter: nn.Parameter, backbone: Backbone) -> bool:
        """Biases train."""
        return name.endswith("bias")

    def attach(self, backbone: Backbone) -> nn.Module:
        """Add zero biases where asked, which leave the outputs as they are, then free all biases."""
        if self.add_biases:
            add_zero_biases(backbone)
        return super().attach(backbone)

    def merge(self, model: nn.Module) -> nn.Module:
        """Return the model itself, whose own biases have changed; added ones would not load again."""
        if self.add_biases:
            raise ConfigError("merge", True, "the base's architecture has no place for the biases of method.add_biases")
        return model


def add_zero_biases(backbone: Backbone) -> None:
    """Give each linear layer of the base that has no bias a bias of zeros, output layer excepted."""
    import torch
    from torch import nn

    output = backbone.model.get_output_embeddings()
    for name, module in backbone.model.named_modules():
        if (
            isinstance(module, nn.Linear)
            and module.bias is None
            and module is not output
            and not backbone.in_head(name)
        ):
            module.bias = nn.Parameter(
                torch.zeros(module.out_features, dtype=module.weight.dtype, device=module.weight.device)
            )
