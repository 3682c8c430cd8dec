"""The order of a training's items, and how many steps it has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.config import TrainConfig
from harness.training.order import order_by_length, steps_of


def padding(order: list[int], lengths: list[int], batch_size: int) -> float:
    """Return the share of padding in an order cut into batches."""
    batches = np.array(lengths)[order].reshape(-1, batch_size)
    return float(1 - batches.sum() / (batches.max(axis=1) * batch_size).sum())


@pytest.mark.parametrize("items", [3, 16, 100, 1000, 1601])
def test_each_epoch_has_each_item_once(items: int) -> None:
    lengths = np.random.default_rng(1).integers(5, 60, items).tolist()
    order = order_by_length(lengths, 16, 16 * 250, seed=0)
    assert len(order) == 16 * 250
    for start in range(0, len(order) - items + 1, items):
        assert sorted(order[start : start + items]) == list(range(items))


def test_order_depends_on_the_seed_alone() -> None:
    lengths = np.random.default_rng(1).integers(5, 60, 500).tolist()
    first = order_by_length(lengths, 16, 1600, seed=3)
    assert order_by_length(lengths, 16, 1600, seed=3) == first
    assert order_by_length(lengths, 16, 800, seed=3) == first[:800]  # a longer training begins as a shorter one
    assert order_by_length(lengths, 16, 1600, seed=4) != first
    assert first[:500] != first[500:1000]


@pytest.mark.parametrize("items", [4267, 4264, 808])
def test_little_of_a_batch_is_padding_in_every_epoch(items: int) -> None:
    """Also where an epoch does not divide into batches, and the next one begins in the middle of one."""
    lengths = np.random.default_rng(1).integers(5, 60, items).tolist()
    order = order_by_length(lengths, 16, 16 * 1000, seed=0)
    at_random = np.random.default_rng(2).integers(0, items, 16 * 1000).tolist()
    assert padding(at_random, lengths, 16) > 0.4
    for part in np.array_split(np.array(order).reshape(-1, 16), 5):
        assert padding(part.ravel().tolist(), lengths, 16) < 0.05


def test_batches_come_in_random_order_of_length() -> None:
    order = order_by_length(list(range(800)), 16, 800, seed=0)
    means = np.array(order).reshape(-1, 16).mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(50))[0, 1]) < 0.5


@pytest.mark.parametrize(
    ("settings", "items", "steps"),
    [
        ({"max_steps": 7}, 1000, 7),
        ({"max_steps": -1, "num_train_epochs": 1}, 33, 3),
        ({"max_steps": -1, "num_train_epochs": 2.5}, 32, 5),
        ({"max_steps": -1, "num_train_epochs": 1, "gradient_accumulation_steps": 4}, 129, 3),
        ({"max_steps": -1, "num_train_epochs": 0.001}, 20, 1),
    ],
)
def test_steps_are_those_asked_or_those_of_the_epochs(settings: dict[str, Any], items: int, steps: int) -> None:
    assert steps_of(TrainConfig(**settings), items) == steps
