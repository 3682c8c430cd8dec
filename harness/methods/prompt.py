"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): a few trained vectors before the input."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from harness.config import require, require_at_least
from harness.methods.base import METHODS
from harness.methods.peft import PeftMethod, prompt_shape

if TYPE_CHECKING:
    from peft import PeftConfig

    from harness.models import Backbone


class PromptInit(Enum):
    """What the soft prompt starts as."""

    vocabulary = "vocabulary"
    """Embeddings of random tokens."""
    text = "text"
    """The embeddings of `init_text`."""
    random = "random"


@METHODS.register("prompt")
@dataclass
class PromptTuning(PeftMethod):
    """Train `length` · d numbers: a soft prompt in the embedding space."""

    mergeable: ClassVar[bool] = False
    leaves_matrices: ClassVar[str | None] = "prompt tuning adds inputs and changes no weight matrix"

    learning_rate: float = 1e-1
    length: int = 20
    """Virtual tokens."""
    init: PromptInit = PromptInit.vocabulary
    init_text: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("method.length", self.length, 1)
        needs_text = self.init is PromptInit.text and not self.init_text
        require(
            not needs_text,
            "method.init_text",
            self.init_text,
            "method.init=text needs the text to start from",
        )

    def needs_whole_base(self) -> str | None:
        """PEFT calls parts of the base by themselves."""
        return "virtual tokens enter by a part of the base, outside of a pass of the whole"

    def peft_config(self, backbone: Backbone) -> PeftConfig:
        """Return PEFT's configuration of the soft prompt."""
        from peft import PromptTuningConfig, PromptTuningInit

        starts = {
            PromptInit.vocabulary: PromptTuningInit.SAMPLE_VOCAB,
            PromptInit.text: PromptTuningInit.TEXT,
            PromptInit.random: PromptTuningInit.RANDOM,
        }
        text = {
            "prompt_tuning_init_text": self.init_text,
            "tokenizer_name_or_path": str(backbone.files.folder),
        }
        return PromptTuningConfig(
            num_virtual_tokens=self.length,
            prompt_tuning_init=starts[self.init],
            **prompt_shape(backbone),
            **(text if self.init is PromptInit.text else {}),  # type: ignore[arg-type]
        )
