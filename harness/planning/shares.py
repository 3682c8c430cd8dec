"""What one of several processes holds of a plan: with ``distributed=shard`` its rows of the base, and what is gathered.

Computed from the plan of one process at a process's share of the batch, P being the number of processes:

    weights, gradients, optimiser   what is of the base / P; what a method adds is whole in each process
    temporaries                     + the tensors outside of the blocks, whole, + two blocks (FSDP2 gathers the next one
                                    while it computes with one), + the gradient of one block where the base is trained

Not measured on GPUs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.config import Distributed, RunConfig
from harness.distributed.shard import blocks
from harness.planning.live import GRADIENTS, OPTIMISER, TEMPORARIES, WEIGHTS
from harness.planning.skeleton import Blueprint, Skeleton, weightless
from harness.planning.step import Peak

GATHERED = 2
"""Blocks that are whole at a time."""
ADDED = re.compile(r"base_model\.model\.|base_layer\.|original_module\.|modules_to_save\.\w+\.")
"""What a tuner puts into the names of the base's tensors."""


def of_process(peak: Peak, config: RunConfig, skeleton: Skeleton, blueprint: Blueprint) -> Peak:
    """Return what a process of the configured number holds; of one process, or a whole model in each, the same."""
    if config.processes == 1 or config.distributed is not Distributed.shard:
        return peak
    base = weightless(blueprint).model
    names = {name for name, _ in base.named_parameters()}
    held = {ADDED.sub("", name): tensor for name, tensor in skeleton.model.named_parameters()}
    held = {name: tensor for name, tensor in held.items() if name in names}
    change = _change(peak.moment.bytes, held, base, config.processes)
    moment = replace(peak.moment, bytes={kind: size + change.get(kind, 0) for kind, size in peak.moment.bytes.items()})
    return replace(peak, moment=moment, reserved=peak.reserved + sum(change.values()))


def _change(
    held: Mapping[str, int], base: Mapping[str, Tensor], model: PreTrainedModel, processes: int
) -> dict[str, int]:
    """Return by how many bytes each kind is other than in one process; `base` are the base's tensors by name."""
    away = 1 - 1 / processes
    weights = sum(_bytes(tensor) for tensor in base.values())
    trained = sum(_bytes(tensor) for tensor in base.values() if tensor.requires_grad)
    block, outside = _parts(base, model)
    gathered = outside + GATHERED * block + (block if trained else 0)
    found = {WEIGHTS: -math.floor(weights * away), TEMPORARIES: gathered}
    if trained:  # a method that trains the base adds next to nothing: all gradients and moments are in parts
        found |= {kind: -math.floor(held[kind] * away) for kind in (GRADIENTS, OPTIMISER)}
    return found


def _parts(base: Mapping[str, Tensor], model: PreTrainedModel) -> tuple[int, int]:
    """Return the bytes of the largest block, and of all that is in none."""
    prefixes = [name.removesuffix("*") for name in blocks(model)]
    sizes: dict[str, int] = {}
    for name, tensor in base.items():
        prefix = next((one for one in prefixes if name.startswith(one)), None)
        block = "" if prefix is None else prefix + name.removeprefix(prefix).partition(".")[0]
        sizes[block] = sizes.get(block, 0) + _bytes(tensor)
    outside = sizes.pop("", 0)
    return max(sizes.values(), default=0), outside


def _bytes(tensor: Tensor | nn.Parameter) -> int:
    return tensor.numel() * tensor.element_size()
