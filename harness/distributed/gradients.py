"""Gradients of several processes as one process would have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.tensor import DTensor

from harness.distributed import group

BUCKET = 25 * 2**20
"""Bytes that are sent at once, as DistributedDataParallel does: a message for each small tensor would cost more."""


def average(model: nn.Module) -> None:
    """Average the gradients of what every process holds whole; those of a sharded tensor are averaged by torch.

    DistributedDataParallel would do so while the backward pass runs. It wraps the model, whose names and methods the
    objectives, PEFT and the probes know, and it wants all of a model's tensors, 4-bit ones too, in its own buffers.
    """
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad and not isinstance(tensor, DTensor)]
    for bucket in _buckets(_gradients(trained)):
        flat = _flatten_dense_tensors(bucket)
        dist.all_reduce(flat)
        flat /= group.size()
        for grad, averaged in zip(bucket, _unflatten_dense_tensors(flat, bucket), strict=True):
            grad.copy_(averaged)


def _gradients(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the gradients, zeros where another process has one and this has none: its items did not use the tensor."""
    if not tensors:
        return
    found = torch.tensor([float(tensor.grad is not None) for tensor in tensors], device=tensors[0].device)
    for tensor, anywhere in zip(tensors, group.total(found).tolist(), strict=True):
        if anywhere and tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor)
        if tensor.grad is not None:
            yield tensor.grad


def align(model: nn.Module) -> None:
    """Give every process the first one's numbers of what trains and is held whole: they were drawn on each."""
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad and not isinstance(tensor, DTensor):
                dist.broadcast(tensor.detach(), src=0)


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors of one dtype and device in lists of at most :data:`BUCKET` bytes, larger ones alone."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        bucket = kinds.setdefault((tensor.dtype, tensor.device), [])
        if bucket and sum(held.nbytes for held in bucket) + tensor.nbytes > BUCKET:
            yield bucket
            bucket = kinds[tensor.dtype, tensor.device] = []
        bucket.append(tensor)
    yield from kinds.values()
