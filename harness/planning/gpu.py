"""What a GPU does otherwise than a processor, where that takes other memory.

Fake tensors lie on the processor, for a build of torch without CUDA has no fake CUDA tensors. So what torch and
bitsandbytes decide by the device is decided here as for CUDA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CONTEXT = 450 * 2**20
"""Bytes that CUDA's context, kernels and libraries hold outside of PyTorch's allocator; 300 to 600 MiB are seen."""
WORKSPACE = 8519680
"""Bytes of cuBLAS' workspace: 4096 KiB twice and 16 KiB eight times, PyTorch's default before Hopper (32 MiB there)."""


class AsOnCuda(TorchFunctionMode):
    """Attention and norms as CUDA's kernels and CUDA's autocast do them.

    CUDA's fused attention draws its dropout inside of the kernel; the processor has no such kernel and would hold all
    probabilities. CUDA's autocast computes layer norms in float32, the processor's in the lower precision.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, these two as on CUDA."""
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention and "dropout_p" in kwargs:
            kwargs["dropout_p"] = 0.0
        if func is torch.nn.functional.layer_norm and torch.is_autocast_enabled("cpu"):
            args = tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in args)
        return func(*args, **kwargs)


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Take the paths of CUDA inside."""
    import bitsandbytes as bnb
    from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState

    def matmul(a: Tensor, b: Tensor, out: Any = None, state: MatmulLtState | None = None, bias: Any = None) -> Any:
        return MatMul8bitLt.apply(a, b, out, bias, state)

    with AsOnCuda(), patch.object(bnb, "matmul", matmul):
        yield


def foreach_steps(optimizer: torch.optim.Optimizer) -> None:
    """Have torch's own optimisers go through all tensors at once, their default on CUDA, which holds temporaries."""
    for group in optimizer.param_groups:
        if "foreach" in group and not group.get("fused"):
            group["foreach"] = True


def clip(parameters: Iterable[Tensor], largest: float) -> None:
    """Clip the gradients' norm as accelerate has torch do it: all at once, which torch does not do of itself here."""
    torch.nn.utils.clip_grad_norm_(parameters, largest, foreach=True)
