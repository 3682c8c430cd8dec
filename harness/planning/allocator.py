"""CUDA's caching allocator, played: the bytes that PyTorch reserves for a row of allocations and frees.

The rules and their numbers are those of ``c10/cuda/CUDACachingAllocator.cpp`` of torch 2.13 with its default settings.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

BLOCK = 512
"""Bytes: every allocation is a whole number of them."""
SMALL = 2**20
"""Bytes up to which an allocation comes out of a small segment, and the least rest for which a large block is cut."""
SMALL_SEGMENT = 2 * 2**20
LARGE_SEGMENT = 20 * 2**20
"""The segment from which allocations of 1 to 10 MiB come; larger ones get a segment of their own size."""
OWN_SEGMENT = 10 * 2**20
ROUND_SEGMENT = 2 * 2**20


def rounded(size: int, unit: int = BLOCK) -> int:
    """Return `size` bytes rounded up to a whole number of `unit`, of which there is at least one."""
    return unit * max(1, -(-size // unit))


def segment_size(size: int) -> int:
    """Return the bytes that are asked of the driver for an allocation of `size` that no free block holds."""
    if size <= SMALL:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < OWN_SEGMENT else rounded(size, ROUND_SEGMENT)


@dataclass(eq=False)
class Block:
    """A piece of a segment, between its neighbours."""

    address: int
    size: int
    small: bool
    """Whether it belongs to the pool of small segments."""
    free: bool = False
    before: Block | None = None
    after: Block | None = None


class CachingAllocator:
    """Best fit among free blocks, cut where much is left, joined with free neighbours when freed."""

    def __init__(self) -> None:
        self.reserved = 0
        """Bytes of all segments; none is given back to the driver."""
        self._pools: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        """Free blocks of the small and the large pool, by size and then by address."""

    def allocate(self, size: int) -> Block:
        """Return a block of at least `size` bytes, from a free block where one is large enough."""
        size = rounded(size)
        pool = self._pools[size <= SMALL]
        index = bisect_left(pool, (size, -1))
        block = pool.pop(index)[2] if index < len(pool) else self._segment(size)
        block.free = False
        rest = block.size - size
        if rest >= BLOCK if block.small else rest > SMALL:
            self._cut(block, size)
        return block

    def free(self, block: Block) -> None:
        """Give a block back and join it with free neighbours."""
        for other in (block.before, block.after):
            if other is not None and other.free:
                self._take(other)
                block = _joined(block, other)
        self._keep(block)

    def _segment(self, size: int) -> Block:
        made = Block(self.reserved, segment_size(size), size <= SMALL)
        self.reserved += made.size
        return made

    def _cut(self, block: Block, size: int) -> None:
        rest = Block(block.address + size, block.size - size, block.small, before=block, after=block.after)
        if block.after is not None:
            block.after.before = rest
        block.size, block.after = size, rest
        self._keep(rest)

    def _keep(self, block: Block) -> None:
        block.free = True
        insort(self._pools[block.small], (block.size, block.address, block))

    def _take(self, block: Block) -> None:
        pool = self._pools[block.small]
        del pool[bisect_left(pool, (block.size, block.address))]


def _joined(one: Block, other: Block) -> Block:
    """Return two neighbours as one block."""
    first, second = (one, other) if one.address < other.address else (other, one)
    first.size += second.size
    first.after = second.after
    if second.after is not None:
        second.after.before = first
    return first
