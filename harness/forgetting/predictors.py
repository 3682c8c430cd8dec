"""What a model predicts of tokens: logits at the scored positions of rows, and the hidden states behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from harness.forgetting.heads import OutputHead
from harness.forgetting.subject import Subject, last_hidden_states, plain
from harness.forgetting.texts import Row
from harness.objectives.base import mask, pad


class Predictor(Protocol):
    """How a kind of model predicts tokens."""

    def __call__(self, rows: Sequence[Row], states: bool) -> list[tuple[Tensor, Tensor | None]]:
        """Return pieces of (logits, hidden states) that together follow the rows' positions in order."""


class NextToken:
    """A decoder: the next token at the last positions of each row."""

    def __init__(self, model: nn.Module, padding: int) -> None:
        self.model, self.padding = model, padding

    def __call__(self, rows: Sequence[Row], states: bool) -> list[tuple[Tensor, Tensor | None]]:
        """Compute vocabulary logits from the batch's first scored position on."""
        longest = max(len(row.ids) for row in rows)
        keep = longest - min(row.first for row in rows)
        batch = inputs(rows, self.padding, self.model)
        with last_hidden_states(self.model) as kept:
            logits = self.model(**batch, logits_to_keep=keep, use_cache=False).logits[:, -keep:]
        hidden = kept[-1][:, -keep:] if states else None  # counted from the end: virtual tokens come first
        pieces = []
        for index, row in enumerate(rows):
            first = row.first - (longest - keep)
            part = slice(first, first + len(row.targets))
            pieces.append((logits[index, part], None if hidden is None else hidden[index, part]))
        return pieces


class MaskedToken:
    """An encoder with the masked-language-model head of its checkpoint over its tuned body: one token a row."""

    def __init__(self, model: nn.Module, head: OutputHead, padding: int) -> None:
        self.model, self.head, self.padding = model, head, padding

    def __call__(self, rows: Sequence[Row], states: bool) -> list[tuple[Tensor, Tensor | None]]:
        """Apply the head at the masked position of each row and nowhere else."""
        batch = inputs(rows, self.padding, self.model)
        length = batch["input_ids"].shape[1]
        with last_hidden_states(self.model) as kept:
            self.model(**batch)
        places = torch.tensor([row.first for row in rows], device=kept[-1].device)
        hidden = kept[-1][:, -length:][torch.arange(len(rows), device=places.device), places]
        return [(self.head(hidden[:, None])[:, 0], hidden if states else None)]


def inputs(rows: Sequence[Row], padding: int, model: nn.Module) -> dict[str, Tensor]:
    """Pad rows on the right and put them where the model is."""
    device = next(model.parameters()).device
    ids = [row.ids for row in rows]
    return {"input_ids": pad(ids, padding).to(device), "attention_mask": mask(ids).to(device)}


def predictor(subject: Subject, masked: bool, head: OutputHead | None) -> Predictor:
    """Return how the subject predicts tokens; masked ones with the checkpoint's head, on the subject's device."""
    padding = int(subject.prepared.objective.tokenizer.pad_token_id)
    if not masked:
        return NextToken(subject.model, padding)
    assert head is not None
    own = plain(subject.model).get_input_embeddings().weight
    return MaskedToken(subject.model, head.tuned(own), padding)
