"""Null controls: changes of the same size that mean nothing, the same for one seed and matrix in any process."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.changes import Change, Dense, LowRank, Matrix


def controls(matrix: Matrix, seed: int) -> dict[str, Change]:
    """Return what a count is to be read beside: by name, random changes of the same norm, and of the same rank too.

    Over a quantised base also the quantisation floor, dequant(quant(W0)) - W0 alone.
    """
    found: dict[str, Change] = {"dense": random_dense(matrix, seed)}
    if isinstance(matrix.change, LowRank):
        found["low_rank"] = random_low_rank(matrix, matrix.change.a.shape[0], seed)
    if matrix.floor is not None:
        found["quantisation"] = matrix.floor
    return found


def random_dense(matrix: Matrix, seed: int) -> Dense:
    """Return independent normal entries, scaled to ‖ΔW‖_F."""
    delta = _normal(matrix, "dense", seed, *matrix.shape)
    return Dense(delta * (matrix.change.squared_norm() ** 0.5 / delta.norm()))


def random_low_rank(matrix: Matrix, rank: int, seed: int) -> LowRank:
    """Return factors with independent normal entries, their product scaled to ‖ΔW‖_F."""
    out, inner = matrix.shape
    made = LowRank(_normal(matrix, "b", seed, out, rank), _normal(matrix, "a", seed, rank, inner))
    scale = (matrix.change.squared_norm() / made.squared_norm()) ** 0.5
    return LowRank(made.b * scale, made.a)


def _normal(matrix: Matrix, purpose: str, seed: int, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    """Return normal numbers that depend on the seed and the matrix's name, not on the order of the work."""
    text = f"{seed} {purpose} {matrix.name} {matrix.reference}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(number)
    return torch.randn(rows, columns, generator=generator).to(matrix.base.device)
