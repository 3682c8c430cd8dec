"""Right and wrong answers of configurations whose differences and spreads are known."""

from __future__ import annotations

import numpy as np

from analysis.effects.variance import Array


def simulated(rng: np.random.Generator, spreads: Array, seeds: int, shift: Array, items: int = 300) -> list[Array]:
    """Return right and wrong answers, shape ``(seeds, items)`` a configuration; `spreads` are of seeds, in probits."""
    easy = 0.6 * rng.normal(size=items)
    made = []
    for spread, more in zip(spreads, shift, strict=True):
        seed, own = spread * rng.normal(size=(seeds, 1)), 0.3 * rng.normal(size=items)
        made.append((0.8 + more + seed + easy + own + 0.7 * rng.normal(size=(seeds, items)) > 0).astype(float))
    return made


def spreads(rng: np.random.Generator, kind: str, middle: float, count: int = 12) -> Array:
    """Return the spread of each configuration's seeds: alike, of an inverse χ² with 6, or one ten times the others'."""
    if kind == "unequal":
        return middle * np.sqrt(6 / rng.chisquare(6, count))
    return middle * np.where(np.arange(count) == (0 if kind == "unstable" else -1), 10.0, 1.0)
