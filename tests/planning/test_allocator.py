"""The played allocator against what CUDA's is known to reserve."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from harness.planning.allocator import Block, CachingAllocator

MIB = 2**20


@pytest.mark.parametrize(
    ("sizes", "reserved"),
    [
        ([1], 2 * MIB),
        ([512] * 4096, 2 * MIB),
        ([512] * 4097, 4 * MIB),
        ([MIB + 1], 20 * MIB),
        ([5 * MIB] * 4, 20 * MIB),
        ([10 * MIB], 10 * MIB),
        ([11 * MIB - 1], 12 * MIB),
        ([1, 2 * MIB], 22 * MIB),
    ],
)
def test_segments_have_the_sizes_of_pytorchs_source(sizes: list[int], reserved: int) -> None:
    """kSmallBuffer, kLargeBuffer, kMinLargeAlloc and kRoundLarge of c10/cuda/CUDACachingAllocator.cpp."""
    allocator = CachingAllocator()
    for size in sizes:
        allocator.allocate(size)
    assert allocator.reserved == reserved


def test_freed_neighbours_are_joined_and_used_again() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.allocate(4 * MIB) for _ in range(5)]
    for index in (1, 3, 2, 0, 4):
        allocator.free(blocks[index])
    allocator.allocate(20 * MIB - 1)
    assert allocator.reserved == 20 * MIB


def test_a_gap_that_is_too_small_costs_a_new_segment() -> None:
    allocator = CachingAllocator()
    kept = [allocator.allocate(10 * MIB) for _ in range(4)]
    allocator.free(kept[0])
    allocator.free(kept[2])
    allocator.allocate(20 * MIB)
    assert allocator.reserved == 60 * MIB


def test_blocks_never_overlap_and_what_is_freed_comes_back() -> None:
    generator, allocator = random.Random(0), CachingAllocator()
    live: list[tuple[Block, int]] = []
    for _ in range(2000):
        if live and generator.random() < 0.5:
            allocator.free(live.pop(generator.randrange(len(live)))[0])
        else:
            size = int(2 ** generator.uniform(0, 25))
            live.append((allocator.allocate(size), size))
        spans = sorted((block.address, block.address + block.size) for block, _ in live)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all(block.size >= size for block, size in live)
    reserved = allocator.reserved
    for block, _ in live:
        allocator.free(block)
    free = [block.size for pool in allocator._pools.values() for _, _, block in pool]
    assert sum(free) == reserved
