"""The protocol of objectives, and what they share: prompts that fit, batches by length."""

from __future__ import annotations

import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from harness.errors import ConfigError
from harness.registry import Registry
from harness.tasks.base import Item, Outcome, Task

OBJECTIVES: Registry[Objective[Any]] = Registry("objective", choosable=False)
IGNORED = -100
Advance = Callable[[int], None]
Features = dict[str, Any]
Batch = dict[str, Any]
TaskT = TypeVar("TaskT", bound=Task)
X = TypeVar("X")


class Objective(ABC, Generic[TaskT]):
    """What training minimises and how items are answered; it holds tokenised data but never the model."""

    name: ClassVar[str] = "objective"
    contract: ClassVar[type] = Task
    """What a task must be to be answered so (``harness.tasks.contracts``), never a kind."""
    outputs = 0
    """The width of the head an encoder needs."""
    names: tuple[str, ...] = ()
    """What the head's outputs stand for, where each is an answer."""
    packed: ClassVar[bool] = False
    """Whether items are blocks of one length, whose batches have no padding and no mask."""
    chooses = False
    """Whether an encoder's head gives a distribution over answers."""

    def __init__(self, task: TaskT, tokenizer: PreTrainedTokenizerBase) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self._shortened: set[str] = set()

    @property
    def shortened(self) -> int:
        """Return how many of the items tokenised so far were cut to fit ``task.max_length``."""
        return len(self._shortened)

    @abstractmethod
    def features(self, items: Sequence[Item]) -> list[Features]:
        """Tokenise training items."""

    @abstractmethod
    def questions(self, items: Sequence[Item]) -> Any:
        """Tokenise items to be answered, so that a sweep does it once."""

    @abstractmethod
    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad features to one batch of tensors."""

    def longest(self) -> Features:
        """Return a training item as long as ``task.max_length`` allows, of any tokens, for planning memory.

        Raises :class:`ConfigError` where the lengths of such items are not known.
        """
        raise ConfigError("task", self.task.name, f"the longest item of its objective {self.name} is not known")

    def units(self, batch: Batch) -> int:
        """Return how many targets the batch's loss sums over."""
        return int((batch["labels"] != IGNORED).sum())

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss summed over the batch's targets, in nats."""

    def training_loss(self, model: nn.Module, batch: Batch, fused: bool) -> Tensor:
        """Return :meth:`loss` as training computes it; `fused` allows a way that makes no logits."""
        return self.loss(model, batch)

    @abstractmethod
    def answer(self, model: nn.Module, questions: Any, batch_size: int, advance: Advance) -> list[Outcome]:
        """Answer every item; the model is in evaluation mode and on its device."""

    def show(self, item: Item) -> str:
        """Return what the model is shown of an item."""
        return self.task.template.format(**item.fields)

    def prompt(self, item: Item, budget: int) -> str:
        """Fill the template, cutting the longest field at its end so that the whole fits `budget` tokens.

        The template's own words after the field, such as "Answer:", are never cut away.
        """
        text = fit(self.task.template, item.fields, self.tokenizer, budget)
        if text != self.task.template.format(**item.fields):
            self._shortened.add(item.id)
        return text


def fit(template: str, fields: dict[str, str], tokenizer: PreTrainedTokenizerBase, budget: int) -> str:
    """Fill `template`, shortening its longest field until the text has at most `budget` tokens."""
    text = template.format(**fields)
    if len(text.encode()) < budget:  # a token has at least one byte
        return text
    used = {name for _, name, _, _ in string.Formatter().parse(template) if name}
    ends = {name: [0, *_ends(fields[name], tokenizer)] for name in sorted(used)}
    keep = {name: len(ends[name]) - 1 for name in ends}
    while (over := len(tokenizer(text).input_ids) - budget) > 0 and any(keep.values()):
        longest, *others = sorted(keep, key=lambda name: -keep[name])
        # Down to the next longest field, or where several are as long, to its share of what is too much.
        excess = keep[longest] - max((keep[name] for name in others), default=0)
        keep[longest] -= min(over, keep[longest], max(excess, -(-over // len(keep))))
        text = template.format(**fields | {name: fields[name][: ends[name][keep[name]]] for name in keep})
    return text


def _ends(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return where each token of `text` ends, in characters."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [end for _, end in encoded.offset_mapping]


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
