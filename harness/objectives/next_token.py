"""Decoders that model text: every token of packed blocks carries loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

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
from harness.tasks.base import Item, Outcome, Task


@OBJECTIVES.register("next_token")
class NextToken(Objective[Task]):
    """Texts joined by end-of-sequence tokens and cut into blocks of ``task.max_length``."""

    packed = True

    def features(self, items: Sequence[Item]) -> list[Features]:
        """Pack all texts; the last block may be shorter, one of a single token is left out."""
        stream: list[int] = []
        for item in items:
            stream += [*self.tokenizer(self.show(item)).input_ids, self.tokenizer.eos_token_id]
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

    def _losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return each block's summed loss, of shape (blocks,)."""
        length = batch["input_ids"].shape[1]
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        # Counted from the end: prompt tuning's virtual tokens come first and have logits too.
        logits = output.logits[:, -length:-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:], ignore_index=IGNORED, reduction="none")
        return losses.sum(-1)

    def answer(self, model: nn.Module, questions: Any, batch_size: int, advance: Advance) -> list[Outcome]:
        """Return every block's loss."""
        outcomes: dict[int, Outcome] = {}
        for part in by_length(questions, lambda block: int(block["length"]), batch_size):
            losses: list[float] = self._losses(
                model, to_device(self.collate([questions[i] for i in part]), model)
            ).tolist()
            for index, loss in zip(part, losses, strict=True):
                tokens = questions[index]["length"] - 1
                outcomes[index] = Outcome(f"block-{index}", "", "", loss / tokens, loss, tokens)
            advance(len(part))
        return [outcomes[index] for index in range(len(questions))]
