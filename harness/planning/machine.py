"""How fast this machine's device is, measured in a few seconds and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness.identity import digest
from harness.planning.cards import Card
from harness.runtime import Runtime
from harness.storage.files import write_json

ROWS, WIDTH = 256, 512
"""A product as small models' layers make: the tokens of a batch of short items times a layer's matrix."""
VALUES = 2**24
"""Values of the vectors that are added, 64 MiB in float32: more than caches hold, as an optimiser's state is."""
TINY = 16
"""Values of vectors whose products take what calling an operation takes, forward and backward."""
CHAIN = 50
"""Of such products one after the other; each is three operations: one forward and two backward."""
SECONDS = 0.7
"""For which each of the three is repeated. The quickest repetition counts: others are lengthened by other work."""


def this_machine(runtime: Runtime, cache: Path) -> Card:
    """Return this machine's device with the rates that it reaches, from `cache` where it was measured before."""
    compute = runtime.precision.compute
    who = [runtime.key(), torch.get_num_threads(), str(compute), torch.__version__]
    file = cache / "speed" / f"{digest(who)}.json"
    if file.is_file():
        return Card(**json.loads(file.read_text(encoding="utf-8")))
    found = measure(runtime, compute)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, vars(found))
    return found


def measure(runtime: Runtime, dtype: torch.dtype) -> Card:
    """Measure the rate of matrix products in `dtype`, of memory, and the time that an operation takes at least."""
    device = runtime.device
    states, layer = (torch.ones(rows, WIDTH, dtype=dtype, device=device) for rows in (ROWS, WIDTH))
    one, other, total = (torch.ones(VALUES, device=device) for _ in range(3))
    product = quickest(lambda: states @ layer, runtime)
    traffic = quickest(lambda: torch.add(one, other, out=total), runtime)
    call = quickest(lambda: _chain(torch.ones(TINY, device=device, requires_grad=True)), runtime) / (3 * CHAIN)
    rate, bandwidth = 2 * ROWS * WIDTH**2 / product, 3 * one.numel() * one.element_size() / traffic
    return Card("this machine", _memory(runtime), rate / 1e12, bandwidth / 1e9, launch=call, used=1.0)


def _chain(factor: Tensor) -> None:
    found = factor
    for _ in range(CHAIN):
        found = found * factor
    found.sum().backward()


def quickest(work: Callable[[], object], runtime: Runtime) -> float:
    """Return the least seconds that a call took."""
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        runtime.synchronise()
        begin = time.perf_counter()
        work()
        runtime.synchronise()
        best = min(best, time.perf_counter() - begin)
    return best


def _memory(runtime: Runtime) -> int:
    if runtime.cuda:
        return int(torch.cuda.get_device_properties(runtime.device).total_memory)
    import os

    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
