"""What stands in for a tokenizer: a plan needs numbers of tokens and never reads a text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch


class StandIn(SimpleNamespace):
    """Takes every word for a token; its special tokens are those of the model's configuration, or 0."""

    def __init__(self, config: Any = None) -> None:
        names = ("pad_token_id", "eos_token_id", "bos_token_id")
        super().__init__(**{name: _first(getattr(config, name, None)) for name in names})

    def __call__(self, text: str, return_tensors: str | None = None, **options: Any) -> dict[str, Any]:
        """Return as many tokens as the text has words, `max_length` at most."""
        count = max(1, min(len(text.split()), options.get("max_length") or len(text)))
        ids = [0] * count
        return {"input_ids": torch.tensor([ids]) if return_tensors else ids}


def _first(token: Any) -> int:
    """Return the first of several tokens, 0 where there is none or one outside of the vocabulary."""
    token = token[0] if isinstance(token, list) else token
    return token if token is not None and token >= 0 else 0
