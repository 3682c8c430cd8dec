"""Head only: the base stays frozen; a control that shows how much a task needs of the base at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.methods.base import METHODS, DirectMethod

if TYPE_CHECKING:
    from torch import nn

    from harness.models import Backbone


@METHODS.register("head_only")
@dataclass
class HeadOnly(DirectMethod):
    """Train the encoder's new head, or a decoder's output layer where it is a matrix of its own."""

    leaves_matrices: ClassVar[str | None] = "only the head was trained; the base's matrices stay as they were"

    learning_rate: float = 1e-1

    def unsuitable(self, backbone: Backbone) -> str | None:
        """A tied output layer is the input embedding too, so training it alone changes the base's input."""
        if backbone.kind == "decoder" and backbone.model.config.get_text_config().tie_word_embeddings:
            return "the model's output layer is tied to its input embedding; there is no separate head to train"
        return None

    def trains(self, name: str, parameter: nn.Parameter, backbone: Backbone) -> bool:
        """Only a decoder's output layer trains besides the new head."""
        output = backbone.model.get_output_embeddings() if backbone.kind == "decoder" else None
        return output is not None and any(parameter is own for own in output.parameters())
