"""What two computations of the same thing share: texts and whole numbers exactly, floats but for rounding.

The same operation on the same numbers gives other last bits when a tensor lies at another alignment, in another
process, with another number of threads, on another processor. Between two files written from the same stored numbers
equality is exact; between two computations it is within the bounds here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

OTHERWISE = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
"""Variables under which a process rounds as another processor would: kernels without vectors, MKL's oldest."""
EPS32 = 2.0**-23
"""Of float32: the weights and the products."""
SIDE = 128
"""The longest sum in the tiny models' products: a row of 32, of which the widest layer makes 128 (GPT-2's) or 64."""
ROUNDING = SIDE * EPS32
"""1.5e-5, of what is a backward-stable sum or singular value: side × eps, relative to the largest."""


def gap(sigmas: Sequence[float]) -> float:
    """Return the largest singular value over the least distance of two neighbours: how far vectors turn by rounding."""
    found = sorted(sigmas, reverse=True)
    return found[0] / min(one - other for one, other in itertools.pairwise(found))


def vectors_bound(condition: float) -> float:
    """Return the bound on a cosine: singular vectors turn by at most side × eps × σ1 / gap (Davis and Kahan, 1970)."""
    return ROUNDING * condition


def assert_same_but_for_rounding(one: list[dict[str, Any]], other: list[dict[str, Any]], cosine: float) -> None:
    """Require the same rows: floats within `ROUNDING`, what comes from singular vectors within `cosine`."""
    assert len(one) == len(other) > 0
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            if isinstance(value, float) and isinstance(second[name], float):
                bound = _bound(name, cosine) * max(1.0, abs(value))
                assert abs(value - second[name]) <= bound, f"{name}: {value!r}, {second[name]!r}, bound {bound:.1g}"
            else:
                assert value == second[name], name


def _bound(name: str, cosine: float) -> float:
    if name == "degrees":  # arccos is steepest at 1: a cosine off by δ is an angle of up to √(2δ)
        return math.degrees(math.sqrt(2 * cosine))
    return cosine if name.startswith(("cos", "bound", "cluster", "energy", "phi")) else ROUNDING


def without_flags(rows: list[dict[str, Any]], eps: float, cosine: float) -> list[dict[str, Any]]:
    """Return rows of vectors, the intruder flags of those whose cosine is within its bound of ε left out."""
    return [
        {
            name: None if name.startswith("intruder") and abs(row[f"cos_{name[-1]}"] - eps) <= cosine else value
            for name, value in row.items()
        }
        for row in rows
    ]
