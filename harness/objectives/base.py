"""The protocol of objectives, and what they share: prompts that fit, batches by length."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from harness.tasks.base import Item, Outcome, Task

IGNORED = -100
Advance = Callable[[int], None]
Features = dict[str, Any]
Batch = dict[str, Any]
TaskT = TypeVar("TaskT", bound=Task)
X = TypeVar("X")


class Objective(Generic[TaskT]):
    """What training minimises and how items are answered; it holds tokenised data but never the model."""

    outputs = 0
    """The width of the head an encoder needs."""

    def __init__(self, task: TaskT, tokenizer: PreTrainedTokenizerBase) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.shortened = 0
        """Items whose longest field was cut to fit ``task.max_length``."""

    def features(self, items: Sequence[Item]) -> list[Features]:
        """Tokenise training items."""
        raise NotImplementedError

    def questions(self, items: Sequence[Item]) -> Any:
        """Tokenise items to be answered, so that a sweep does it once."""
        raise NotImplementedError

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad features to one batch of tensors."""
        raise NotImplementedError

    def units(self, batch: Batch) -> int:
        """Return how many targets the batch's loss sums over."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss summed over the batch's targets, in nats."""
        raise NotImplementedError

    def answer(self, model: nn.Module, questions: Any, batch_size: int, advance: Advance) -> list[Outcome]:
        """Answer every item; the model is in evaluation mode and on its device."""
        raise NotImplementedError

    def show(self, item: Item) -> str:
        """Return what the model is shown of an item."""
        return self.task.template.format(**item.fields)

    def prompt(self, item: Item, budget: int) -> str:
        """Fill the template, cutting the longest field at its end so that the whole fits `budget` tokens.

        The template's own words after the field, such as "Answer:", are never cut away.
        """
        return fit(self.task.template, item.fields, self.tokenizer, budget, self._count_cut)

    def _count_cut(self) -> None:
        self.shortened += 1


def fit(
    template: str,
    fields: dict[str, str],
    tokenizer: PreTrainedTokenizerBase,
    budget: int,
    cut: Callable[[], None],
) -> str:
    """Fill `template`, shortening its longest field until the text has at most `budget` tokens."""
    text = template.format(**fields)
    if len(text) < budget or len(tokenizer(text).input_ids) <= budget:  # a token has at least one character
        return text
    cut()
    used = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    longest = max(used, key=lambda name: len(fields[name]))
    rest = len(tokenizer(template.format(**{**fields, longest: ""})).input_ids)
    offsets = tokenizer(fields[longest], add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    for keep in range(max(budget - rest, 0), -1, -1):
        end = offsets[keep - 1][1] if keep else 0
        text = template.format(**{**fields, longest: fields[longest][:end]})
        if len(tokenizer(text).input_ids) <= budget:
            break
    return text


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return the rows as one tensor of shape (rows, longest), padded on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([list(row) + [value] * (longest - len(row)) for row in rows])


def mask(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return 1 for tokens and 0 for padding, of shape (rows, longest)."""
    return pad([[1] * len(row) for row in rows], 0)


def by_length(rows: Sequence[X], length: Callable[[X], int], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of row indices in order of length, so that little is padding.

    Longest first: where a batch does not fit into memory, the first one says so.
    """
    order = sorted(range(len(rows)), key=lambda index: (-length(rows[index]), index))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def to_device(batch: Batch, model: nn.Module) -> Batch:
    """Move a batch's tensors to where the model is."""
    device = next(model.parameters()).device
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
