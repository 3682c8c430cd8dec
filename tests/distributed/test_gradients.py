"""Gradients of two processes are averaged, also of a tensor that the items of one did not use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from harness.distributed import gradients
from harness.distributed.launch import start
from harness.distributed.membership import joined


def averaged() -> dict[str, Any]:
    """Return a process's gradients after averaging: rank 0 uses `both` alone, rank 1 `seldom` too, nobody `never`."""
    from harness.distributed import group

    torch.set_num_threads(1)
    with joined(use_cpu=True):
        model = nn.ParameterDict({name: nn.Parameter(torch.ones(3)) for name in ("both", "seldom", "never")})
        (model["both"] * (group.rank() + 1)).sum().backward()
        if group.rank() == 1:
            (4 * model["seldom"]).sum().backward()
        gradients.average(model)
        return {name: None if tensor.grad is None else tensor.grad.tolist() for name, tensor in model.items()}


@pytest.mark.slow
def test_gradients_are_averaged() -> None:
    found = start(2, averaged)
    assert found[0] == found[1] == {"both": [1.5] * 3, "seldom": [2.0] * 3, "never": None}


def test_buckets_hold_all_tensors_of_one_dtype_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "BUCKET", 40)
    tensors = [torch.zeros(4), torch.zeros(4, dtype=torch.bfloat16), torch.zeros(4), torch.zeros(30), torch.zeros(4)]
    buckets = list(gradients._buckets(tensors))
    assert sorted(id(tensor) for bucket in buckets for tensor in bucket) == sorted(map(id, tensors))
    assert all(len({tensor.dtype for tensor in bucket}) == 1 for bucket in buckets)
    assert all(len(bucket) == 1 or sum(tensor.nbytes for tensor in bucket) <= 40 for bucket in buckets)
