"""Selective activation checkpointing: a layer keeps what is dear to compute again, and computes the rest again.

Whole checkpointing (``train.gradient_checkpointing``) keeps a layer's input and runs the layer twice. Most of what a
layer holds, however, is cheap: norms, activations of the feed-forward part, an adapter's narrow products. Kept are the
results of attention and of the products whose matrix is not square: gate, up and down of a Llama's layer, keys and
values of grouped heads. Square ones, queries and attention's output, are computed again: a fifth of a layer's products,
and a fifth of what keeping all of them would hold. See Korthikanti et al. 2023, arXiv 2205.05198, section 5.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

ATEN = torch.ops.aten
ATTENTION = frozenset(
    {
        ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        ATEN._scaled_dot_product_flash_attention.default,
        ATEN._scaled_dot_product_efficient_attention.default,
        ATEN._scaled_dot_product_cudnn_attention.default,
    }
)
WEIGHT = {ATEN.mm.default: 1, ATEN.addmm.default: 2}
"""Products of matrices, and which of their arguments is the matrix of shape (inputs, outputs)."""
SMALL = 128
"""A side below which a product costs less than keeping it, as an adapter's of its rank."""


def kept(_: Any, operation: Any, *arguments: Any, **__: Any) -> CheckpointPolicy:
    """Return whether the result of an operation is kept for the backward pass."""
    if operation in ATTENTION:
        return CheckpointPolicy.MUST_SAVE
    place = WEIGHT.get(operation)
    if place is None:
        return CheckpointPolicy.PREFER_RECOMPUTE
    inputs, outputs = arguments[place].shape
    dear = inputs != outputs and min(inputs, outputs) >= SMALL
    return CheckpointPolicy.MUST_SAVE if dear else CheckpointPolicy.PREFER_RECOMPUTE


contexts = partial(create_selective_checkpoint_contexts, kept)
"""What ``torch.utils.checkpoint.checkpoint`` takes as ``context_fn``."""
