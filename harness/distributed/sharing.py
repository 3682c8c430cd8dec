"""Batches shared among processes: whole ones, so that each is computed as one process would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from harness.distributed import group

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


def share(batches: Iterable[T]) -> Iterator[T]:
    """Yield this process's batches: every n-th of n processes.

    All get equally many, because the passes of a sharded model wait for each other: where the batches do not go round,
    the last is computed by several, with the same result.
    """
    every = list(batches)
    for start in range(0, len(every), group.size()):
        yield every[min(start + group.rank(), len(every) - 1)]


def joined(found: Mapping[K, V]) -> dict[K, V]:
    """Return what all processes found, by key."""
    return {key: value for part in group.gathered(dict(found)) for key, value in part.items()}
