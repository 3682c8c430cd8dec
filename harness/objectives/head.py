"""Encoders with a head: class logits, a number, or one number for each choice."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from harness.distributed.sharing import joined, share
from harness.objectives.base import (
    OBJECTIVES,
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
from harness.tasks.base import Item, Outcome, Task
from harness.tasks.contracts import ChoiceTask, LabelTask

USUAL_ANSWERS = 5
"""Answers of a question whose items are not at hand: CommonsenseQA has 5, most others 4 or fewer."""


class EncoderObjective(Objective[TaskT]):
    """What encoders with a head share: texts or pairs of texts in, rows of logits out."""

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

    def longest_text(self) -> Features:
        """Return a text of ``task.max_length`` tokens."""
        return {"input_ids": [0] * self.task.max_length, "length": self.task.max_length}

    def units(self, batch: Batch) -> int:
        """Every item is one target."""
        return len(batch["labels"])

    def questions(self, items: Sequence[Item]) -> list[tuple[Item, Features]]:
        """Tokenise as in training."""
        return list(zip(items, self.features(items), strict=True))

    def answer(self, model: nn.Module, questions: Any, batch_size: int, advance: Advance) -> list[Outcome]:
        """Read each item's answer off its logits."""
        outcomes: dict[int, Outcome] = {}
        for part in share(by_length(questions, lambda pair: pair[1]["length"], batch_size)):
            batch = to_device(self.collate([questions[index][1] for index in part]), model)
            logits = self.choice_logits(model, batch)
            losses = self.losses(logits, batch["labels"]).tolist()
            for index, row, loss in zip(part, logits.tolist(), losses, strict=True):
                outcomes[index] = self.outcome(questions[index][0], row, loss)
            advance(len(part))
        outcomes = joined(outcomes)
        return [outcomes[index] for index in range(len(questions))]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the summed loss of the batch."""
        return self.losses(self.choice_logits(model, batch), batch["labels"]).sum()

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each item's cross-entropy of the right answer."""
        return F.cross_entropy(logits, labels, reduction="none")

    @abstractmethod
    def outcome(self, item: Item, logits: list[float], loss: float) -> Outcome:
        """Return what the model made of `item`."""

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


class TextHead(EncoderObjective[TaskT]):
    """One text or pair an item, and a label that its logits are compared with."""

    placeholder: ClassVar[float] = 0
    """A label of the type that the loss takes."""

    def features(self, items: Sequence[Item]) -> list[Features]:
        """Tokenise texts; labels become numbers."""
        return [
            {**self.encode(item.id, item.fields["text"], item.fields.get("text_pair")), "label": self.label(item)}
            for item in items
        ]

    def longest(self) -> Features:
        """Return a whole text; 0 is a label of every task."""
        return {**self.longest_text(), "label": self.placeholder}

    @abstractmethod
    def label(self, item: Item) -> float:
        """Return the number that stands for the item's target."""

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad texts; labels are of the type that `label` gives."""
        return {**self.inputs(features), "labels": torch.tensor([f["label"] for f in features])}


@OBJECTIVES.register("head")
class Head(TextHead[LabelTask]):
    """Cross-entropy over the answers that all items share, one output each."""

    contract: ClassVar[type] = LabelTask
    chooses = True

    def __init__(self, task: LabelTask, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(task, tokenizer)
        self.names = tuple(answer.name for answer in task.shared_answers())
        self.outputs = len(self.names)

    def label(self, item: Item) -> int:
        """Return the index of the right answer."""
        return self.task.gold(item)

    def outcome(self, item: Item, logits: list[float], loss: float) -> Outcome:
        """Take the answer with the highest logit."""
        best, gold = highest(logits), self.task.gold(item)
        return Outcome(item.id, self.names[best], self.names[gold], float(best == gold), loss, 1)


@OBJECTIVES.register("regression_head")
class RegressionHead(TextHead[Task]):
    """Squared error of one output; targets are numbers, and an item's score is the number predicted."""

    outputs = 1
    placeholder = 0.0

    def label(self, item: Item) -> float:
        """Return the number itself."""
        return float(item.target)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each item's squared error."""
        return F.mse_loss(logits[:, 0], labels, reduction="none")

    def outcome(self, item: Item, logits: list[float], loss: float) -> Outcome:
        """Take the number; a squared error is no likelihood and is not kept."""
        return Outcome(item.id, f"{logits[0]:.6g}", str(item.target), logits[0])


@OBJECTIVES.register("choice_head")
class ChoiceHead(EncoderObjective[ChoiceTask]):
    """One number for each pair of question and answer; cross-entropy over an item's answers."""

    contract: ClassVar[type] = ChoiceTask
    outputs = 1
    chooses = True

    def features(self, items: Sequence[Item]) -> list[Features]:
        """Tokenise each item's prompt once with every answer."""
        return [self._encode(item) for item in items]

    def _encode(self, item: Item) -> Features:
        prompt = self.show(item)
        pairs = [self.encode(item.id, prompt, answer.name) for answer in self.task.answers(item)]
        return {"pairs": pairs, "label": self.task.gold(item), "length": max(pair["length"] for pair in pairs)}

    def longest(self) -> Features:
        """Return a question with :data:`USUAL_ANSWERS` answers, as long as each pair may be."""
        return {"pairs": [self.longest_text()] * USUAL_ANSWERS, "label": 0, "length": self.task.max_length}

    def collate(self, features: Sequence[Features]) -> Batch:
        """Lay all pairs of all items out as rows; ``counts`` says how many each item has."""
        labels = torch.tensor([f["label"] for f in features])
        pairs = [pair for f in features for pair in f["pairs"]]
        return {**self.inputs(pairs), "labels": labels, "counts": [len(f["pairs"]) for f in features]}

    def show(self, item: Item) -> str:
        """Return the prompt, which each answer is paired with."""
        return self.task.template.format(**item.fields)

    def choice_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return logits of shape (items, most answers), minus infinity where an item has fewer."""
        parts = self.logits(model, batch)[:, 0].split(batch["counts"])
        return nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=float("-inf"))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of the right answers."""
        return F.cross_entropy(self.choice_logits(model, batch), batch["labels"], reduction="sum")

    def outcome(self, item: Item, logits: list[float], loss: float) -> Outcome:
        """Take the answer with the highest number."""
        answers, best, gold = self.task.answers(item), highest(logits), self.task.gold(item)
        return Outcome(item.id, answers[best].name, answers[gold].name, float(best == gold), loss, 1)


def highest(logits: Sequence[float]) -> int:
    """Return the index of the highest logit, the first of equals."""
    return max(range(len(logits)), key=lambda index: logits[index])
