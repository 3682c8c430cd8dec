"""Cross-entropy over a vocabulary whose logits are never made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

AVAILABLE = hasattr(F, "linear_cross_entropy")
"""Whether this torch has it; 2.13 is the first."""

CHUNK = 512
"""Positions whose logits are there at a time.

Forward and backward of 1,024 of SmolLM2's took 1.4 s with 256 or 512, 1.7 s with plain logits, and 3.6 to 4.9 s with
the chunks that torch chooses (one thread of an AMD EPYC, float32).
"""


def output_layer(model: nn.Module) -> nn.Linear | None:
    """Return the layer that makes a decoder's logits, None where it is no plain product of states and a matrix.

    An adapter on it, a trained copy of it or a layer in 4 bits is computed by its own code.
    """
    inner: Any = getattr(model, "get_base_model", lambda: model)()
    layer = inner.get_output_embeddings()
    return layer if AVAILABLE and type(layer) is nn.Linear and layer.bias is None else None


@contextmanager
def states_for_logits(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """Have the model return what goes into its output layer in the place of logits; yield the list of what went in."""
    seen: list[Tensor] = []

    def keep(states: Tensor) -> Tensor:
        seen.append(states)
        return states

    layer.forward = keep  # type: ignore[method-assign, assignment]
    try:
        yield seen
    finally:
        del layer.forward


def states(run: Callable[[], Tensor], layer: nn.Linear) -> Tensor | None:
    """Return the states that the layer would read, None where the model changes its logits afterwards.

    Gemma caps them and Cohere scales them, which a loss from the states would leave out.
    """
    with states_for_logits(layer) as seen:
        found = run()
    return found if seen and found is seen[-1] else None


def summed_cross_entropy(
    hidden: Float[Tensor, "positions width"],
    weight: Float[Tensor, "vocabulary width"],
    targets: Int[Tensor, " positions"],
    ignored: int,
) -> Float[Tensor, ""]:
    """Return Σ -log softmax(W h)[target] over the positions whose target is not `ignored`, in nats.

    Chunk by chunk, with sums in float32 where the states have 16 bits: ``torch.nn.functional.linear_cross_entropy``.
    """
    function: Any = F.linear_cross_entropy  # type: ignore[attr-defined]
    options: Any = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK)  # type: ignore[attr-defined]
    weight = weight.to(hidden.dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        found: Tensor = function(hidden, weight, targets, reduction="sum", ignore_index=ignored, options=options)
    return found
