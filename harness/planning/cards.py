"""The memory and speed of common GPUs, and sizes as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.errors import ConfigError, nearest

VERSION = 2
"""Of how time is estimated: what an earlier version measured and planned is not read."""
APART = 1.3
"""Factor by which measured trainings took longer or shorter than estimated, but for those that docs/planning.md names.

Of PEFT's MetaMathQA suite on an NVIDIA L40S, full fine-tuning takes 1.29 times as long and LoRA's variants .83 to .97.
"""
UNITS = {"gib": 2**30, "gb": 10**9, "mib": 2**20, "mb": 10**6}


@dataclass(frozen=True)
class Card:
    """A GPU as its maker describes it."""

    name: str
    memory: int
    """Bytes that its driver offers, error correction on."""
    teraflops: float | None = None
    """10¹² floating-point operations a second of dense products in bfloat16 (float16 where it has none)."""
    bandwidth: float | None = None
    """10⁹ bytes a second to and from its memory."""
    launch: float = 8e-6
    """Seconds from one small kernel to the next: eager PyTorch asks a GPU for none sooner."""
    used: float = 0.75
    """Share of these rates that kernels reach; of this machine it is measured."""
    overlaps: bool = True
    """Whether a kernel is launched while others compute, as on a GPU; a processor does one after the other."""


def _card(name: str, gib: float, teraflops: float, bandwidth: float) -> Card:
    return Card(name, int(gib * 2**30), teraflops, bandwidth)


CARDS = {
    card.name: card
    for card in (
        _card("t4", 14.6, 65, 320),
        _card("v100_16", 15.8, 125, 900),
        _card("v100_32", 31.7, 125, 900),
        _card("rtx3090", 23.7, 71, 936),
        _card("rtx4090", 23.6, 165, 1008),
        _card("rtx5090", 31.4, 209, 1792),
        _card("a10", 22.0, 125, 600),
        _card("l4", 22.0, 121, 300),
        _card("a6000", 47.5, 155, 768),
        _card("l40s", 44.4, 362, 864),
        _card("a100_40", 39.4, 312, 1555),
        _card("a100_80", 79.2, 312, 2039),
        _card("h100", 79.1, 989, 3350),
        _card("h200", 139.8, 989, 4800),
        _card("b200", 178.0, 2250, 8000),
    )
}
"""Data-sheet values of the common cards; of versions of a card the one with the faster memory."""


def between(seconds: float) -> tuple[float, float]:
    """Return the ends between which a training most likely takes its time that is estimated to take so long."""
    return seconds / APART, seconds * APART


def card(text: str) -> Card:
    """Return a card by name, or one of unknown speed by its memory: ``l40s``, ``24GiB``, ``80GB``.

    Raises :class:`ConfigError` for an unknown name and for a number without a unit.
    """
    name = text.strip().lower()
    if name in CARDS:
        return CARDS[name]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", name)
    if match is None:
        raise ConfigError("gpu", text, f"no such card; {nearest(name, CARDS)}, or its memory such as 24GiB")
    number, unit = match.groups()
    if unit not in UNITS:
        problem = f"unknown unit {unit}" if unit else "has no unit"
        raise ConfigError("gpu", text, f"{problem}; write {number}GiB (2³⁰ bytes) or {number}GB (10⁹ bytes)")
    if float(number) <= 0:
        raise ConfigError("gpu", text, "must be above 0")
    return Card(text.strip(), int(float(number) * UNITS[unit]))
