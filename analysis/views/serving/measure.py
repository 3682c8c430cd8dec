"""Timing of greedy generation: seconds to the first token and between tokens, and the bytes that are held for it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import DynamicCache

from harness.runtime import Runtime


@dataclass(frozen=True)
class Load:
    """The requests: the same for every model."""

    prompt: int
    """Tokens of each request."""
    tokens: int
    """Tokens that each is answered with."""
    batch: int
    """Requests at once."""

    def inputs(self, vocabulary: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Return the requests: fixed random tokens, since what they say changes no time."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(vocabulary, (self.batch, self.prompt), generator=generator).to(device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@dataclass(frozen=True)
class Timed:
    """One generation."""

    first: float
    """Seconds from the request to its first token."""
    token: float
    """Seconds between two tokens, the mean over the others."""
    throughput: float
    """Tokens a second of all requests together, from the request on."""
    cache: int
    """Bytes of the keys and values at its end."""


class _Clock:
    """Called by `generate` with the logits of each token, before it is chosen."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.stamps: list[float] = []

    def stamp(self) -> None:
        self.runtime.synchronise()
        self.stamps.append(time.perf_counter())

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.stamp()
        return scores


@torch.inference_mode()
def timed(model: nn.Module, load: Load, runtime: Runtime) -> Timed:
    """Answer the requests once by greedy search, every one with the same number of tokens."""
    found = cast("Any", model)
    vocabulary = found.config.get_text_config().vocab_size
    inputs, clock = load.inputs(vocabulary, runtime.device), _Clock(runtime)
    options = {"max_new_tokens": load.tokens, "min_new_tokens": load.tokens, "do_sample": False, "pad_token_id": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says of prompts at every token that they take positions of their own
        clock.stamp()
        output = found.eval().generate(**inputs, **options, logits_processor=[clock], return_dict_in_generate=True)
    begin, first, *_, last = clock.stamps
    count = len(clock.stamps) - 1
    token = (last - first) / (count - 1)
    return Timed(first - begin, token, load.batch * count / (last - begin), cache_bytes(output.past_key_values))


def cache_bytes(cache: DynamicCache) -> int:
    """Return the bytes of a cache's keys and values."""
    return sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))


def weights_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers, shared ones once, scales of quantised weights included."""
    tensors = [*model.parameters(), *model.buffers()]
    return held([*tensors, *(tensor for weight in model.parameters() for tensor in _scales(weight))])


def held(tensors: Sequence[torch.Tensor]) -> int:
    """Return the bytes of tensors, those that share a storage once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors if tensor.numel()}.values())


def _scales(weight: Any) -> list[torch.Tensor]:
    """Return what bitsandbytes holds beside a quantised weight."""
    state = getattr(weight, "quant_state", None)
    parts = state.as_dict(packed=False).values() if state is not None else (getattr(weight, "SCB", None),)
    return [part for part in parts if isinstance(part, torch.Tensor)]
