"""Live bytes against bytes counted by hand."""

from __future__ import annotations

import torch

from harness.planning.allocator import CachingAllocator
from harness.planning.live import ACTIVATIONS, GRADIENTS, PAGED, TEMPORARIES, LiveMemory

KIB = 2**10


def test_a_storage_counts_once_and_until_nothing_refers_to_it() -> None:
    live = LiveMemory()
    with live, live.part("here", ACTIVATIONS):
        first = torch.empty(KIB, dtype=torch.float32)
        view = first[: KIB // 2].view(-1, 2)
        assert live.now.total == 4 * KIB
        del first
        assert live.now.total == 4 * KIB
        del view
        assert live.now.total == 0
    assert (live.peak.total, live.peak.where) == (4 * KIB, "here")


def test_the_peak_keeps_what_was_live_then_by_kind() -> None:
    live = LiveMemory()
    with live:
        with live.part("forward", ACTIVATIONS):
            kept = torch.zeros(KIB, dtype=torch.uint8)
        with live.part("backward", TEMPORARIES):
            (torch.zeros(8 * KIB, dtype=torch.uint8) + 1).sum()
    assert kept.numel() == KIB
    assert live.peak.where == "backward"
    assert live.peak.bytes[ACTIVATIONS] == KIB
    assert live.peak.bytes[TEMPORARIES] == 16 * KIB
    assert live.now.total == KIB


def test_what_is_known_for_something_else_changes_its_kind() -> None:
    live = LiveMemory()
    with live, live.part("backward", TEMPORARIES):
        gradient = torch.zeros(KIB, dtype=torch.uint8)
        live.hold([gradient], GRADIENTS)
    assert live.now.bytes[GRADIENTS] == KIB
    assert live.now.bytes[TEMPORARIES] == 0


def test_paged_bytes_are_counted_beside_the_gpus() -> None:
    live = LiveMemory()
    with live:
        state = torch.zeros(KIB, dtype=torch.uint8)
        live.hold([state], PAGED)
    assert (live.now.total, live.now.bytes[PAGED]) == (0, KIB)


def test_with_an_allocator_each_storage_takes_whole_blocks() -> None:
    live = LiveMemory(CachingAllocator())
    with live:
        kept = [torch.zeros(1, dtype=torch.uint8), torch.zeros(513, dtype=torch.uint8)]
    assert len(kept) == 2
    assert live.now.total == 3 * 512


def test_a_backward_passs_peak_is_that_of_a_product() -> None:
    """Y = X W with a loss of Y's sum: X and W stay, Y goes, dY is a view of one number, dW is as large as W."""
    live = LiveMemory()
    x = torch.ones(64, 128)
    w = torch.ones(128, 256, requires_grad=True)
    with live:
        live.hold([x, w], "weights")
        (x @ w).sum().backward()
    assert w.grad is not None
    sizes = {"x": 4 * 64 * 128, "w": 4 * 128 * 256, "y": 4 * 64 * 256}
    assert live.now.total == sizes["x"] + 2 * sizes["w"]
    assert live.peak.total >= sizes["x"] + 2 * sizes["w"]
