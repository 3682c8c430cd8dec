"""How fast this machine's device is, measured in a few seconds and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from harness.identity import digest
from harness.planning.cards import VERSION, Card
from harness.planning.work import Work, noted
from harness.runtime import Runtime
from harness.storage.files import write_json


class Encoder(NamedTuple):
    """A transformer of two layers and its batch, whose training step is timed."""

    width: int
    items: int
    tokens: int


class Sizes(NamedTuple):
    """What is timed: as large as layers of the models are that one trains on such a device."""

    rows: int
    width: int
    """Of a product of rows x width with width x width."""
    values: int
    """Of the vectors that are added: more than caches hold, as an optimiser's state is."""
    encoder: Encoder


SIZES = {"cpu": Sizes(256, 512, 2**24, Encoder(384, 16, 16)), "cuda": Sizes(4096, 4096, 2**28, Encoder(1024, 16, 256))}
TINY = Encoder(32, 2, 8)
"""Whose step takes what calling its operations takes, those of autograd and the modules around them with it."""
SECONDS = 0.7
"""For which each of the four is repeated."""


def this_machine(runtime: Runtime, cache: Path) -> Card:
    """Return this machine's device with the rates that it reaches, from `cache` where it was measured before."""
    compute = runtime.precision.compute
    who = [VERSION, runtime.key(), torch.get_num_threads(), str(compute), torch.__version__]
    file = cache / "speed" / f"{digest(who)}.json"
    if file.is_file():
        return Card(**json.loads(file.read_text(encoding="utf-8")))
    found = measure(runtime, compute)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, vars(found))
    return found


def measure(runtime: Runtime, dtype: torch.dtype) -> Card:
    """Measure the device's rates: of matrix products in `dtype`, of its memory, of calls, and what a step has of them.

    A step of a small transformer has softmax, dropout and GELU, which take longer than what they move; by how much it
    takes longer is the share of the rates that is used: .7 of one thread of a Xeon with AVX-512.
    """
    sizes, device = SIZES["cuda" if runtime.cuda else "cpu"], runtime.device
    states, layer = (torch.ones(rows, sizes.width, dtype=dtype, device=device) for rows in (sizes.rows, sizes.width))
    one, other, total = (torch.ones(sizes.values, device=device) for _ in range(3))
    product = quickest(lambda: states @ layer, runtime)
    traffic = quickest(lambda: torch.add(one, other, out=total), runtime)
    rate, bandwidth = 2 * sizes.rows * sizes.width**2 / product, 3 * one.numel() * one.element_size() / traffic
    card = Card("this machine", _memory(runtime), rate / 1e12, bandwidth / 1e9, 0.0, 1.0, overlaps=runtime.cuda)
    called, calls = timed(TINY, runtime, dtype)
    real, work = timed(sizes.encoder, runtime, dtype)
    launch = called / len(calls.kernels)
    return replace(card, launch=launch, used=share(work, real, replace(card, launch=launch)))


def share(work: Work, real: float, card: Card) -> float:
    """Return the share of a card's rates with which `work` takes the `real` seconds, at most 1 and at least .05."""
    calls = 0.0 if card.overlaps else card.launch * len(work.kernels)
    rated = work.seconds(replace(card, launch=0.0)) or 0.0
    return min(1.0, max(0.05, rated / max(real - calls, 1e-9)))


def timed(encoder: Encoder, runtime: Runtime, dtype: torch.dtype) -> tuple[float, Work]:
    """Return the usual seconds of a forward and backward pass of an encoder, and what it computes and moves."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=100,
        hidden_size=encoder.width,
        intermediate_size=4 * encoder.width,
        num_hidden_layers=2,
        num_attention_heads=encoder.width // 32,
    )
    with torch.random.fork_rng():
        model = BertModel(config).to(runtime.device, dtype).train()
        tokens = torch.ones(encoder.items, encoder.tokens, dtype=torch.long, device=runtime.device)

        def step() -> None:
            model(input_ids=tokens).last_hidden_state.sum().backward()

        step()
        with noted() as work:
            step()
        return median(repeated(step, runtime)), work


def quickest(work: Callable[[], object], runtime: Runtime) -> float:
    """Return the least seconds that a call took: a rate is what the device can do."""
    return min(repeated(work, runtime))


def repeated(work: Callable[[], object], runtime: Runtime) -> list[float]:
    """Return the seconds that each call took."""
    took: list[float] = []
    end = time.perf_counter() + SECONDS
    while not took or time.perf_counter() < end:
        runtime.synchronise()
        begin = time.perf_counter()
        work()
        runtime.synchronise()
        took.append(time.perf_counter() - begin)
    return took


def _memory(runtime: Runtime) -> int:
    if runtime.cuda:
        return int(torch.cuda.get_device_properties(runtime.device).total_memory)
    import os

    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
