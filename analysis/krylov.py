"""The largest singular values and vectors of a matrix that is only multiplied, by a block Krylov iteration.

Vectors are rows here: a thin row block times a row-major matrix reads the matrix once, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.changes import Change, Dense, LowRank

OVERSAMPLING = 4
"""Vectors beyond k in the block: the k-th converges by its distance from the one after the block."""
SMALL = 128
"""Up to this side a full decomposition takes under 2 ms, less than the iteration's own steps."""
ANGLE = 1e-5
"""Error allowed in a vector's direction, as residual over distance to the next value."""
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14}
"""Residual over the largest eigenvalue below which rounding leaves nothing to gain."""


class TopVectors(NamedTuple):
    """The k largest singular triplets, vectors as columns."""

    u: Float[Tensor, "out k"]
    s: Float[Tensor, " k"]
    v: Float[Tensor, "in k"]
    error: Float[Tensor, " k"]
    """An estimate of the angle between each vector and the true one."""


@dataclass(frozen=True)
class Product:
    """W = W0 + ΔW by its products with row blocks; a low-rank ΔW is never added to W0."""

    base: Float[Tensor, "out in"]
    low_rank: LowRank | None = None

    @staticmethod
    def of(base: Float[Tensor, "out in"], change: Change) -> Product:
        """Return the tuned matrix; a dense change is added at once, its products would cost as much again."""
        return Product(base + change.delta) if isinstance(change, Dense) else Product(base, change)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (out_features, in_features)."""
        return self.base.shape[0], self.base.shape[1]

    def left(self, rows: Float[Tensor, "n out"]) -> Float[Tensor, "n in"]:
        """Return rows · W, that is Wᵀ x for each row x."""
        product = rows @ self.base
        return product if self.low_rank is None else product + (rows @ self.low_rank.b) @ self.low_rank.a

    def right(self, rows: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """Return rows · Wᵀ, that is W x for each row x."""
        product = rows @ self.base.T
        return product if self.low_rank is None else product + (rows @ self.low_rank.a.T) @ self.low_rank.b.T

    def dense(self) -> Float[Tensor, "out in"]:
        """Return W."""
        return self.base if self.low_rank is None else self.base + self.low_rank.dense()


def top_singular(w: Product, k: int, guess: Float[Tensor, "n side"] | None = None, seed: int = 0) -> TopVectors:
    """Return the k largest singular triplets of W.

    `guess` are rows on the shorter side that may lie near the answer; random rows join them, so that a
    poor guess costs time and no accuracy.
    """
    if min(w.shape) <= max(SMALL, 3 * (k + OVERSAMPLING)):
        return _full(w, k)
    basis = _Basis(w, _start(w, k, guess, seed))
    while not basis.converged(k):
        if not basis.extend():
            return _full(w, k)
    return basis.vectors(k)


def _full(w: Product, k: int) -> TopVectors:
    u, s, vh = torch.linalg.svd(w.dense(), full_matrices=False)
    return TopVectors(u[:, :k], s[:k], vh[:k].T, _angle(s, torch.full_like(s, _rounding(s) * float(s[0])))[:k])


def _rounding(values: Tensor) -> float:
    return ROUNDING.get(values.dtype, 1e-6)


def _angle(values: Float[Tensor, " n"], residual: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return residual over distance to the nearest other value (Davis and Kahan 1970), at most 1."""
    gap = torch.full_like(values, torch.inf)
    if len(values) > 1:
        steps = (values[:-1] - values[1:]).abs()
        gap[:-1], gap[1:] = steps, torch.minimum(gap[1:], steps)
    return (residual / gap.clamp_min(torch.finfo(values.dtype).tiny)).clamp(max=1)


def _start(w: Product, k: int, guess: Float[Tensor, "n side"] | None, seed: int) -> Float[Tensor, "b side"]:
    """Return orthonormal rows to begin with: the guess, and enough random rows beside it."""
    side = min(w.shape)
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(max(OVERSAMPLING, k + OVERSAMPLING - (0 if guess is None else len(guess))), side, generator=generator)
    random = random.to(w.base)
    rows = random if guess is None else torch.cat([guess.to(w.base), random])
    return torch.linalg.qr(rows.T)[0].T.contiguous()


class _Basis:
    """A growing orthonormal basis K of the Krylov space of M = W Wᵀ, or WᵀW where that is smaller, with T = K M Kᵀ."""

    def __init__(self, w: Product, block: Float[Tensor, "b side"]) -> None:
        self.w, self.tall = w, w.shape[0] > w.shape[1]
        self.block = len(block)
        self.limit = min(w.shape[0], w.shape[1], 40 * self.block)
        self.rows = block.new_empty(self.limit + self.block, block.shape[1])
        self.t = block.new_zeros(self.limit + self.block, self.limit + self.block)
        self.rows[: self.block], self.size = block, 0
        self.values, self.combined = block.new_empty(0), block.new_empty(0, 0)
        self.checked = 0
        self.extend()

    def extend(self) -> bool:
        """Multiply the newest block and orthogonalise the result into the next; return False where there is no room."""
        start, end = self.size, self.size + self.block
        if end > self.limit:
            return False
        rest = self._squared(self.rows[start:end])
        known = self.rows[:end]
        for _ in range(2):  # twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9)
            part = rest @ known.T
            self.t[start:end, :end] += part
            rest = rest - part @ known
        self.t[:end, start:end] = self.t[start:end, :end].T
        following, self.coupling = torch.linalg.qr(rest.T)
        # Where a column was nothing but rounding, QR made a direction of it that may lie in the basis.
        following = following - known.T @ (known @ following)
        self.rows[end : end + self.block] = torch.linalg.qr(following)[0].T
        self.size = end
        return True

    def _squared(self, rows: Tensor) -> Tensor:
        return self.w.left(self.w.right(rows)) if self.tall else self.w.right(self.w.left(rows))

    def converged(self, k: int) -> bool:
        """Return whether the k largest Ritz pairs are accurate to `ANGLE`, or to what rounding allows."""
        if self.size < 2 * self.block or self.size < k + OVERSAMPLING:
            return False
        if self.size - self.checked < 2 * self.block and self.size > 6 * self.block:
            return False  # the check costs as much as a step or two
        self.checked = self.size
        t = self.t[: self.size, : self.size]
        values, vectors = torch.linalg.eigh((t + t.T) / 2)
        self.values, self.combined = values.flip(0), vectors.flip(1)
        # M y - θ y has parts outside the basis only by its last block: ‖R s_last‖.
        residual = (self.coupling @ self.combined[self.size - self.block : self.size, : k + 1]).norm(dim=0)
        floor = _rounding(values) * self.values[0]
        self.error = torch.maximum(_angle(self.values[: k + 1], residual), _angle(self.values[: k + 1], floor.expand(k + 1)))
        return bool(((self.error[:k] <= ANGLE) | (residual[:k] <= floor)).all())

    def vectors(self, k: int) -> TopVectors:
        """Return the k largest Ritz pairs as singular triplets."""
        near = self.combined[:, :k].T @ self.rows[: self.size]
        far = self.w.right(near) if self.tall else self.w.left(near)
        s = far.norm(dim=1)
        far = far / s.clamp_min(torch.finfo(s.dtype).tiny)[:, None]
        u, v = (far, near) if self.tall else (near, far)
        return TopVectors(u.T, s, v.T, self.error[:k])
