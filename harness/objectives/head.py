"""Encoders with a head: class logits, a number, or one number for each choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from harness.objectives.base import (
    Advance,
    Batch,
    Features,
    Objective,
    TaskT,
    by_length,
    mask,
    pad,
    to_device,
)
from harness.tasks.base import Item, Outcome
from harness.tasks.classification import Classification
from harness.tasks.multiple_choice import MultipleChoice
from harness.tasks.regression import Regression


class EncoderObjective(Objective[TaskT]):
    """What encoders with a head share: texts or pairs of texts in, rows of logits out."""

    chooses = False
    """Whether an answer is one of several, so that the head gives a distribution."""

    def encode(self, item: str, text: str, pair: str | None) -> Features:
        """Tokenise a text or a pair of `item`, cut to ``task.max_length``."""
        encoded = self.tokenizer(text, pair, truncation=True, max_length=self.task.max_length)
        if encoded.encodings and encoded.encodings[0].overflowing:
            self._shortened.add(item)
        return {**encoded, "length": len(encoded.input_ids)}

    def inputs(self, features: Sequence[Features]) -> Batch:
        """Pad token ids, and token types where the tokenizer gives them."""
        rows = [f["input_ids"] for f in features]
        batch = {"input_ids": pad(rows, self.tokenizer.pad_token_id), "attention_mask": mask(rows)}
        if "token_type_ids" in features[0]:
            batch["token_type_ids"] = pad([f["token_type_ids"] for f in features], 0)
        return batch

    def units(self, batch: Batch) -> int:
        """Every item is one target."""
        return len(batch["labels"])

    def choice_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return logits over what an item can be answered with, of shape (items, most answers)."""
        return self.logits(model, batch)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the head's outputs, of shape (rows, outputs)."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        logits: Tensor = model(**{name: batch[name] for name in names if name in batch}).logits
        return logits.float()

    def show(self, item: Item) -> str:
        """Return the text, or the pair on two lines."""
        return "\n".join(item.fields[name] for name in ("text", "text_pair") if name in item.fields)


class Head(EncoderObjective["Classification | Regression"]):
    """Cross-entropy over labels, or squared error for regression."""

    def __init__(self, task: Classification | Regression, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(task, tokenizer)
        self.outputs = task.outputs()
        self.names = list(task.labels) if isinstance(task, Classification) else []
        self.chooses = bool(self.names)

    def features(self, items: Sequence[Item]) -> list[Features]:
        """Tokenise texts; labels become indices."""
        return [
            {**self.encode(item.id, item.fields["text"], item.fields.get("text_pair")), "label": self._label(item)}
            for item in items
        ]

    def _label(self, item: Item) -> float:
        return self.names.index(item.target) if self.names else float(item.target)

    def questions(self, items: Sequence[Item]) -> list[tuple[Item, Features]]:
        """Tokenise as in training."""
        return list(zip(items, self.features(items), strict=True))

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad texts; labels as integers, or as numbers for regression."""
        labels = torch.tensor([f["label"] for f in features], dtype=torch.long if self.names else torch.float)
        return {**self.inputs(features), "labels": labels}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the summed loss of the batch."""
        return self._losses(self.logits(model, batch), batch["labels"]).sum()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.names:
            return F.cross_entropy(logits, labels, reduction="none")
        return F.mse_loss(logits[:, 0], labels, reduction="none")

    def answer(self, model: nn.Module, questions: Any, batch_size: int, advance: Advance) -> list[Outcome]:
        """Take the highest logit, or the number itself."""
        outcomes: dict[int, Outcome] = {}
        for part in by_length(questions, lambda pair: pair[1]["length"], batch_size):
            batch = to_device(self.collate([questions[index][1] for index in part]), model)
            logits = self.logits(model, batch)
            losses = self._losses(logits, batch["labels"]).tolist()
            for index, row, loss in zip(part, logits.tolist(), losses, strict=True):
                outcomes[index] = self._outcome(questions[index][0], row, loss)
            advance(len(part))
        return [outcomes[index] for index in range(len(questions))]

    def _outcome(self, item: Item, logits: list[float], loss: float) -> Outcome:
        if not self.names:
            return Outcome(item.id, f"{logits[0]:.6g}", str(item.target), logits[0])
        prediction = self.names[max(range(len(logits)), key=lambda index: logits[index])]
        return Outcome(item.id, prediction, item.target, float(prediction == item.target), loss, 1)


class ChoiceHead(EncoderObjective[MultipleChoice]):
    """One number for each pair of question and choice; cross-entropy over an item's choices."""

    def __init__(self, task: MultipleChoice, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(task, tokenizer)
        self.outputs = task.outputs()
        self.chooses = True

    def features(self, items: Sequence[Item]) -> list[Features]:
        """Tokenise each item's prompt once with every choice."""
        return [self._encode(item) for item in items]

    def _encode(self, item: Item) -> Features:
        prompt = self.task.template.format(**item.fields)
        pairs = [self.encode(item.id, prompt, choice) for choice in item.choices]
        return {"pairs": pairs, "label": int(item.target), "length": max(pair["length"] for pair in pairs)}

    def questions(self, items: Sequence[Item]) -> list[tuple[Item, Features]]:
        """Tokenise as in training."""
        return list(zip(items, self.features(items), strict=True))

    def collate(self, features: Sequence[Features]) -> Batch:
        """Lay all pairs of all items out as rows; ``counts`` says how many each item has."""
        labels = torch.tensor([f["label"] for f in features])
        pairs = [pair for f in features for pair in f["pairs"]]
        return {**self.inputs(pairs), "labels": labels, "counts": [len(f["pairs"]) for f in features]}

    def show(self, item: Item) -> str:
        """Return the prompt, which each choice is paired with."""
        return self.task.template.format(**item.fields)

    def choice_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return logits of shape (items, most choices), minus infinity where an item has fewer."""
        parts = self.logits(model, batch)[:, 0].split(batch["counts"])
        return nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=float("-inf"))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of the right choices."""
        return F.cross_entropy(self.choice_logits(model, batch), batch["labels"], reduction="sum")

    def answer(self, model: nn.Module, questions: Any, batch_size: int, advance: Advance) -> list[Outcome]:
        """Take each item's choice with the highest number."""
        outcomes: dict[int, Outcome] = {}
        for part in by_length(questions, lambda pair: pair[1]["length"], batch_size):
            batch = to_device(self.collate([questions[index][1] for index in part]), model)
            logits = self.choice_logits(model, batch)
            losses = F.cross_entropy(logits, batch["labels"], reduction="none").tolist()
            for index, best, loss in zip(part, logits.argmax(-1).tolist(), losses, strict=True):
                item = questions[index][0]
                right = float(best == item.target)
                outcomes[index] = Outcome(item.id, item.choices[best], item.choices[item.target], right, loss, 1)
            advance(len(part))
        return [outcomes[index] for index in range(len(questions))]
