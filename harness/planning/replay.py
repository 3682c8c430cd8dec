"""A second training step without running it: the first one's allocations over again, beside the optimiser's state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from harness.planning.allocator import Block, CachingAllocator


class What(Enum):
    """What happened to a storage."""

    made = "made"
    named = "named"
    """It is counted as of another kind from here on."""
    freed = "freed"


@dataclass(frozen=True)
class Event:
    """One change of the live bytes."""

    what: What
    key: int
    """Of the storage; none is used twice."""
    size: int
    kind: str
    where: str
    """The part of the step in which it happened."""


@dataclass
class _Held:
    size: int
    kind: str
    block: Block | None


class Replay:
    """Plays the events of a step over what was live after it.

    The first step makes the optimiser's state, and whatever else is still there at its end; the second finds it. But
    for that it makes and frees the same storages in the same order, so its live bytes follow without running it.
    """

    def __init__(self, kinds: dict[str, int], uncounted: str, allocator: CachingAllocator | None) -> None:
        self.now, self.uncounted, self.allocator = dict(kinds), uncounted, allocator
        self.peak, self.peak_total, self.where = dict(kinds), self._total(), ""
        self._held: dict[int, _Held] = {}

    def run(self, events: list[Event], there: set[int]) -> None:
        """Play the events but for those of storages that are `there`, alive since before the step."""
        for event in events:
            if event.key in there:
                continue
            if event.what is What.made:
                self._make(event)
            elif event.key in self._held:
                self._change(event)

    def _make(self, event: Event) -> None:
        block = self.allocator.allocate(event.size) if self.allocator is not None and event.size else None
        self._held[event.key] = _Held(event.size, event.kind, block)
        self.now[event.kind] += event.size
        if self._total() > self.peak_total:
            self.peak, self.peak_total, self.where = dict(self.now), self._total(), event.where

    def _change(self, event: Event) -> None:
        held = self._held[event.key]
        self.now[held.kind] -= held.size
        if event.what is What.named:
            held.kind = event.kind
            self.now[held.kind] += held.size
            return
        del self._held[event.key]
        if held.block is not None and self.allocator is not None:
            self.allocator.free(held.block)

    def _total(self) -> int:
        return sum(self.now.values()) - self.now[self.uncounted]
