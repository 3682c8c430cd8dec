"""What a step computes and moves, operation by operation, and between what times a card takes for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from harness.planning.cards import Card

NO_KERNEL = {torch.ops.aten._unsafe_view, torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.detach}
"""What makes a tensor and computes nothing."""
NO_COMPUTATION = {"prim", "profiler"}
"""Namespaces of what asks or notes something; a fake tensor's device is asked for 70 times for each 30 kernels."""


@dataclass
class Work:
    """The floating-point operations and the bytes of each kernel; a view is no kernel."""

    kernels: list[tuple[int, int]] = field(default_factory=list)
    """(operations, bytes read and written) of each."""

    def note(self, func: Any, args: Any, kwargs: Any, found: Any) -> None:
        """Add an operation that returned `found`."""
        if not func.is_view and func._overloadpacket not in NO_KERNEL and func.namespace not in NO_COMPUTATION:
            moved = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)]
            self.kernels.append((_flops(func, args, kwargs, found), sum(map(_bytes, moved))))

    @property
    def flops(self) -> int:
        """Return the floating-point operations of all kernels; a product of two numbers and a sum are two."""
        return sum(flops for flops, _ in self.kernels)

    def seconds(self, card: Card) -> float | None:
        """Return the seconds that the card takes, None where its speed is not known.

        A kernel takes what it computes or what it reads and writes, whichever is longer: the roofline model (Williams
        et al. 2009, CACM 52(4)). It takes its launch at least, and where nothing overlaps, in addition.
        """
        if card.teraflops is None or card.bandwidth is None:
            return None
        rate, width = card.used * card.teraflops * 1e12, card.used * card.bandwidth * 1e9
        kernels = [max(flops / rate, moved / width) for flops, moved in self.kernels]
        return sum(max(one, card.launch) if card.overlaps else one + card.launch for one in kernels)


class _Noting(TorchDispatchMode):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.work.note(func, args, kwargs or {}, found)
        return found


@contextmanager
def noted() -> Iterator[Work]:
    """Yield what is computed and moved inside."""
    work = Work()
    with _Noting(work):
        yield work


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _flops(func: Any, args: Any, kwargs: Any, found: Any) -> int:
    """Return an operation's floating-point operations, 0 where it is no product."""
    name = func._overloadpacket
    if name in flop_registry:
        return int(flop_registry[name](*args, **kwargs, out_val=found))
    if name is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))
    if name is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return int(sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4])))
    if func.namespace == "bitsandbytes" and "gemm" in str(func):
        return 2 * int(args[0].numel()) * int(found.shape[-1])
    return 0
