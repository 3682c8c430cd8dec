"""Decoders that regress: the expected value over the words of numbers, by their likelihood after the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from harness.config import require
from harness.distributed.sharing import joined, share
from harness.objectives.base import OBJECTIVES, Advance, Batch, Features, by_length, mask, pad, to_device
from harness.objectives.likelihood import AnswerObjective, last_logits
from harness.tasks.base import Item, Outcome
from harness.tasks.contracts import NumberTask


@OBJECTIVES.register("number_words")
class NumberWords(AnswerObjective[NumberTask]):
    """Predicts y = Σ vₖ p(wₖ) / Σ p(wₖ) over the numbers vₖ of the task's words wₖ.

    Trains by cross-entropy with a two-hot target (Farebrother et al. 2024, arXiv 2403.03950, section 3.1): a number
    between vₖ and vₖ₊₁ gives each its share, so that its expected value is the number; log p is over the whole
    vocabulary, so that the model learns to answer with a number at all. Words differ in their last token alone: all
    are read off one position.
    """

    contract: ClassVar[type] = NumberTask

    def __init__(self, task: NumberTask, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(task, tokenizer)
        self._numbers = [number for number, _ in task.scale()]
        empty = task.template.format(**dict.fromkeys(task.text_fields(), ""))
        words = [self.continuation(empty, word) for _, word in task.scale()]
        alike = len({(*prompt, *ids[:-1]) for prompt, ids in words}) == 1
        self._tokens = [ids[-1] for _, ids in words]
        listed = ", ".join(word for _, word in task.scale())
        key = "task.number_words"
        require(alike, key, listed, "in this model's tokens they differ in more than the last; use words of one token")
        require(len(set(self._tokens)) == len(words), key, listed, "two of them end with the same token")
        self._longest = max(len(ids) for _, ids in words)

    def features(self, items: Sequence[Item]) -> list[Features]:
        """Tokenise each prompt, with what all words begin with, and the shares of the words."""
        return [self._encode(item) for item in items]

    def _encode(self, item: Item) -> Features:
        prompt = self.prompt(item, max(self.task.max_length - self._longest, 1))
        begin, ids = self.continuation(prompt, self.task.scale()[0][1])
        row = begin + ids[:-1]
        return {"prompt": row, "shares": two_hot(float(item.target), self._numbers), "length": len(row)}

    def questions(self, items: Sequence[Item]) -> list[tuple[Item, Features]]:
        """Tokenise as in training."""
        return list(zip(items, self.features(items), strict=True))

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad on the right; ``last`` is where a row's own last token is among the ``keep`` positions kept."""
        rows = [f["prompt"] for f in features]
        longest, shortest = max(map(len, rows)), min(map(len, rows))
        return {
            "input_ids": pad(rows, self.tokenizer.pad_token_id),
            "attention_mask": mask(rows),
            "labels": torch.tensor([f["shares"] for f in features]),
            "last": torch.tensor([len(row) - shortest for row in rows]),
            "keep": longest - shortest + 1,
        }

    def longest(self) -> Features:
        """Return a prompt as long as it may be."""
        length = self.task.max_length
        return {"prompt": [0] * length, "shares": two_hot(self._numbers[0], self._numbers), "length": length}

    def units(self, batch: Batch) -> int:
        """Every item is one target."""
        return len(batch["labels"])

    def log_p(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return log p of each word's last token, of shape (items, words), over the whole vocabulary."""
        logits = last_logits(model, batch, batch["keep"]).float()
        here = logits[torch.arange(len(logits), device=logits.device), batch["last"]]
        return here.log_softmax(-1)[:, self._tokens]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return −Σ shareₖ log p(wₖ), summed over the items."""
        return -(batch["labels"] * self.log_p(model, batch)).sum()

    def training_loss(self, model: nn.Module, batch: Batch, fused: bool) -> Tensor:
        """Return the same: one position an item is read, so there are few logits to do without."""
        return self.loss(model, batch)

    def answer(self, model: nn.Module, questions: Any, batch_size: int, advance: Advance) -> list[Outcome]:
        """Take each item's expected value."""
        outcomes: dict[int, Outcome] = {}
        for part in share(by_length(questions, lambda pair: pair[1]["length"], batch_size)):
            batch = to_device(self.collate([questions[index][1] for index in part]), model)
            shares = self.log_p(model, batch).softmax(-1)
            values: list[float] = (shares @ shares.new_tensor(self._numbers)).tolist()
            for index, value in zip(part, values, strict=True):
                item = questions[index][0]
                outcomes[index] = Outcome(item.id, f"{value:.6g}", str(item.target), value)
            advance(len(part))
        outcomes = joined(outcomes)
        return [outcomes[index] for index in range(len(questions))]


def two_hot(number: float, scale: Sequence[float]) -> list[float]:
    """Return shares of the numbers of a scale, in order, whose mean is `number`: of its two neighbours alone.

    A number outside the scale is at its end.
    """
    number = min(max(number, scale[0]), scale[-1])
    upper = next(place for place in range(1, len(scale)) if number <= scale[place])
    share = (number - scale[upper - 1]) / (scale[upper] - scale[upper - 1])
    return [1 - share if place == upper - 1 else share if place == upper else 0.0 for place in range(len(scale))]
