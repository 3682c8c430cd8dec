"""The order of a training's items, written down before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset, Sampler

from harness.config import TrainConfig, require
from harness.objectives.base import Features

Array = npt.NDArray[Any]


class Order(Sampler[int]):
    """The whole training's item order, written down before it starts.

    Resuming is then skipping, whatever the epoch; the order depends on the seed and on nothing else.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def order_by_length(lengths: Sequence[int], batch_size: int, total: int, seed: int) -> list[int]:
    """Return `total` indices in random order, such that each batch holds items of similar length.

    Shuffle; sort within groups of 50 batches; shuffle the batches; again for each epoch, each of which
    holds every index once. TREC's questions padded to the longest of 16 random ones are 40 % padding,
    sorted in groups 3 %.
    """
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < total:
        shuffled = rng.permutation(len(lengths))
        # Fill up the batch that the epoch before left short, or all batches would lie across its seams.
        first = -len(order) % batch_size
        order += shuffled[:first].tolist()
        order += _by_length(shuffled[first:], np.asarray(lengths), batch_size, rng)
    return order[:total]


def _by_length(indices: Array, lengths: Array, batch_size: int, rng: np.random.Generator) -> list[int]:
    """Return `indices` in batches of similar length; a short batch goes last."""
    size = 50 * batch_size
    groups = [indices[start : start + size] for start in range(0, len(indices), size)]
    ranked = [index for group in groups for index in group[np.argsort(lengths[group], kind="stable")].tolist()]
    batches = [ranked[start : start + batch_size] for start in range(0, len(ranked), batch_size)]
    short = [batch for batch in batches if len(batch) < batch_size]
    whole = [batches[number] for number in rng.permutation(len(batches) - len(short))]
    return [index for batch in [*whole, *short] for index in batch]


def steps_of(train: TrainConfig, items: int) -> int:
    """Return the number of optimiser steps: ``max_steps``, or what `num_train_epochs` makes of the items."""
    if train.max_steps != -1:
        return train.max_steps
    per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps
    return max(1, math.ceil(items * train.num_train_epochs / per_step))


@dataclass(frozen=True)
class Share:
    """What one of several processes takes of each optimiser step, so that all together train on the configured items.

    Where the number of processes divides ``train.gradient_accumulation_steps``, each takes so many fewer batches of
    the configured size. Else each takes its rows of every batch.
    """

    rank: int
    processes: int
    batch: int
    """``train.per_device_train_batch_size``."""
    accumulation: int

    @classmethod
    def of(cls, train: TrainConfig, rank: int, processes: int) -> Share:
        """Return a process's share.

        Raises :class:`ConfigError` where a process would have no item.
        """
        share = cls(rank, processes, train.per_device_train_batch_size, train.gradient_accumulation_steps)
        allowed = f"gives not every one of {processes} processes an item; at least {processes}"
        fits = share.by_batches or share.batch >= processes
        require(fits, "train.per_device_train_batch_size", share.batch, allowed)
        return share

    @property
    def by_batches(self) -> bool:
        """Return whether whole batches are shared."""
        return self.accumulation % self.processes == 0

    @property
    def batches(self) -> int:
        """Return how many batches this process computes in a step."""
        return self.accumulation // self.processes if self.by_batches else self.accumulation

    @property
    def rows(self) -> int:
        """Return how many items its batches have."""
        return self.batch if self.by_batches else len(range(self.rank, self.batch, self.processes))

    def of_order(self, order: Sequence[int]) -> list[int]:
        """Return this process's items of the whole training's, in their order."""
        if self.by_batches:
            return [index for number, index in enumerate(order) if number // self.batch % self.processes == self.rank]
        return [index for number, index in enumerate(order) if number % self.batch % self.processes == self.rank]


class Items(Dataset[Features]):
    """Tokenised items as the data set torch's loader wants."""

    def __init__(self, features: list[Features]) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Features:
        return self.features[index]
