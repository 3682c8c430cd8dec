"""Prefix tuning (Li & Liang 2021, arXiv 2101.00190): trained keys and values before each layer's own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from harness.config import require, require_at_least
from harness.methods.base import METHODS
from harness.methods.peft import PeftMethod, no_past

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from harness.models import Backbone


class PrefixInit(Enum):
    """What the prefix starts as."""

    auto = "auto"
    """`text` on decoders, `random` on encoders and under `projection`."""
    text = "text"
    """The keys and values that the untouched decoder has for `init_text`, as Li & Liang advise for little data."""
    random = "random"
    """PEFT's own: standard normal numbers, some ten times larger than a decoder's keys and values."""


@METHODS.register("prefix")
@dataclass
class PrefixTuning(PeftMethod):
    """Train 2 · layers · length · d numbers: keys and values of virtual tokens in every layer."""

    mergeable: ClassVar[bool] = False
    leaves_matrices: ClassVar[str | None] = "prefix tuning adds keys and values and changes no weight matrix"

    learning_rate: float = 3.16e-2
    length: int = 20
    """Virtual tokens."""
    projection: bool = False
    """Compute the prefix by a small network while training, as the paper does."""
    projection_size: int = 512
    init: PrefixInit = PrefixInit.auto
    init_text: str = "Read the following text with care. Think about what is asked, and then give a short answer to it."
    """Repeated, and cut to `length` tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "a projected prefix starts at random"
        require(not (self.projection and self.init is PrefixInit.text), "method.init", "text", allowed)
        require(bool(self.init_text.strip()), "method.init_text", self.init_text, "must hold some text")
        require_at_least("method.length", self.length, 1)
        require_at_least("method.projection_size", self.projection_size, 1)

    def unsuitable(self, backbone: Backbone) -> str | None:
        """The prefix enters as past keys and values, which some architectures do not take."""
        if self.init is PrefixInit.text and backbone.kind != "decoder":
            return "an encoder has no keys and values of a text before its own; method.init=random"
        return no_past(backbone)

    def needs_whole_base(self) -> str | None:
        """PEFT calls parts of the base by themselves."""
        return "virtual tokens enter by a part of the base, outside of a pass of the whole"

    def attach(self, backbone: Backbone) -> nn.Module:
        """Attach the prefix and give it its start."""
        model = super().attach(backbone)
        decoder = backbone.kind == "decoder" and not self.projection
        if self.init is PrefixInit.text or (self.init is PrefixInit.auto and decoder):
            self._start_from_text(model, backbone)
        return model

    def _start_from_text(self, model: nn.Module, backbone: Backbone) -> None:
        from peft import initialize_kv_prefix_from_text

        tokens = max(len(backbone.tokenizer(self.init_text)["input_ids"]), 1)
        text = " ".join([self.init_text] * (1 + self.length // tokens))
        initialize_kv_prefix_from_text(
            model, backbone.tokenizer, text=text, use_chat_template=False, max_length=self.length
        )

    def peft_config(self, backbone: Backbone) -> PeftConfig:
        """Return PEFT's configuration of the prefix."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            num_virtual_tokens=self.length,
            prefix_projection=self.projection,
            encoder_hidden_size=self.projection_size if self.projection else None,
        )
