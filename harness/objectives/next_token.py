"""Decoders that model text: every token of packed blocks carries loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from harness.distributed.sharing import joined, share
from harness.objectives.base import (
    IGNORED,
    OBJECTIVES,
    Advance,
    Batch,
    Features,
    Objective,
    by_length,
    mask,
    pad,
    to_device,
)
from harness.objectives.fused import output_layer, states, summed_cross_entropy
from harness.tasks.base import Item, Outcome, Task


@OBJECTIVES.register("next_token")
class NextToken(Objective[Task]):
    """Texts joined by end-of-sequence tokens and cut into blocks of ``task.max_length``."""

    packed = True

    def features(self, items: Sequence[Item]) -> list[Features]:
        """Pack all texts; the last block may be shorter, one of a single token is left out."""
        stream: list[int] = []
        for item in items:
            # Not told of a text longer than the model's positions: what the model reads are blocks.
            stream += [*self.tokenizer(self.show(item), verbose=False).input_ids, self.tokenizer.eos_token_id]
        size = self.task.max_length
        blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
        return [{"input_ids": block, "length": len(block)} for block in blocks if len(block) > 1]

    def questions(self, items: Sequence[Item]) -> list[Features]:
        """Pack held-out texts as in training."""
        return self.features(items)

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad on the right; the first token of a block has nothing to be predicted from."""
        rows = [f["input_ids"] for f in features]
        labels = pad([[IGNORED, *row[1:]] for row in rows], IGNORED)
        return {
            "input_ids": pad(rows, self.tokenizer.pad_token_id),
            "attention_mask": mask(rows),
            "labels": labels,
        }

    def longest(self) -> Features:
        """Return a whole block."""
        return {"input_ids": [0] * self.task.max_length, "length": self.task.max_length}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the summed negative log-likelihood of all tokens."""
        return self._losses(model, batch).sum()

    def training_loss(self, model: nn.Module, batch: Batch, fused: bool) -> Tensor:
        """Return the same without making logits, where the model allows: of 16 x 512 they take 1.5 GiB in SmolLM2.

        Every position carries loss, so a chunked product does no work in vain.
        """
        layer = output_layer(model) if fused else None
        hidden = states(lambda: self._logits(model, batch), layer) if layer is not None else None
        if layer is None or hidden is None:
            return self.loss(model, batch)
        length = batch["input_ids"].shape[1]
        read = hidden[:, -length:-1].flatten(0, 1)
        return summed_cross_entropy(read, layer.weight, batch["labels"][:, 1:].flatten(), IGNORED)

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
        return logits

    def _losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return each block's summed loss, of shape (blocks,)."""
        length = batch["input_ids"].shape[1]
        # Counted from the end: prompt tuning's virtual tokens come first and have logits too.
        logits = self._logits(model, batch)[:, -length:-1].float()
        targets = batch["labels"][:, 1:]
        # Flat: with the vocabulary in the middle of three dimensions the kernel sums otherwise, and the loss of 512
        # tokens is 3e-5 off instead of 2e-6.
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
        return losses.view(targets.shape).sum(-1)

    def answer(self, model: nn.Module, questions: Any, batch_size: int, advance: Advance) -> list[Outcome]:
        """Return every block's loss."""
        outcomes: dict[int, Outcome] = {}
        for part in share(by_length(questions, lambda block: int(block["length"]), batch_size)):
            losses: list[float] = self._losses(
                model, to_device(self.collate([questions[i] for i in part]), model)
            ).tolist()
            for index, loss in zip(part, losses, strict=True):
                tokens = questions[index]["length"] - 1
                outcomes[index] = Outcome(f"block-{index}", "", "", loss / tokens, loss, tokens)
            advance(len(part))
        outcomes = joined(outcomes)
        return [outcomes[index] for index in range(len(questions))]
