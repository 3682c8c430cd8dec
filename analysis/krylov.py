"""The largest singular values and vectors of a matrix that is only multiplied, by a block Krylov iteration.

Vectors are rows here: a thin row block times a row-major matrix reads the matrix once, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.changes import Change, Dense, LowRank

OVERSAMPLING = 4
"""Vectors beyond k in the block: the k-th converges by its distance from the one after the block."""
SMALL = 256
"""Up to this side decomposing the Gram matrix takes 3 ms, less than the iteration's own steps."""
ANGLE = 1e-5
"""Error allowed in a vector's direction unless another is asked for, as residual over distance to the next value."""
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14}
"""Residual over the largest eigenvalue below which rounding leaves nothing to gain."""


Squared: TypeAlias = Callable[[Tensor], Tensor]
"""Rows x of the shorter side to rows M x, with M = W Wᵀ or WᵀW."""


class TopVectors(NamedTuple):
    """The k largest singular triplets, vectors as columns."""

    u: Float[Tensor, "out k"]
    s: Float[Tensor, " k"]
    v: Float[Tensor, "in k"]


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

    def squared(self, rows: Float[Tensor, "n side"]) -> Float[Tensor, "n side"]:
        """Return M x for each row x of the shorter side: M = W Wᵀ, or WᵀW for a tall matrix."""
        return self.left(self.right(rows)) if self.tall else self.right(self.left(rows))

    @property
    def tall(self) -> bool:
        """Return whether there are more rows than columns."""
        return self.base.shape[0] > self.base.shape[1]

    def triplets(self, near: Float[Tensor, "k side"]) -> TopVectors:
        """Return singular triplets from the singular vectors of the shorter side."""
        far = self.right(near) if self.tall else self.left(near)
        s = far.norm(dim=1)
        far = far / s.clamp_min(torch.finfo(s.dtype).tiny)[:, None]
        u, v = (far, near) if self.tall else (near, far)
        return TopVectors(u.T, s, v.T)


def top_singular(w: Product, k: int, angle: float = ANGLE) -> TopVectors:
    """Return the k largest singular triplets of W.

    The Krylov space starts from random rows. Where it does not converge, in a spectrum with no gaps at all, W is
    decomposed whole.
    """
    if min(w.shape) <= max(SMALL, 3 * (k + OVERSAMPLING)):
        return _by_gram(w, k)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(min(w.shape), k + OVERSAMPLING, generator=generator).to(w.base)
    found = top_eigenvectors(w.squared, torch.linalg.qr(start)[0].T.contiguous(), k, angle)
    return _by_gram(w, k) if found is None else w.triplets(found)


def _by_gram(w: Product, k: int) -> TopVectors:
    """Return the k largest singular triplets from the eigenvectors of the whole Gram matrix, in double precision."""
    dense = w.dense().double()
    vectors = torch.linalg.eigh(dense.T @ dense if w.tall else dense @ dense.T).eigenvectors
    return w.triplets(vectors.flip(1)[:, :k].T.to(w.base.dtype))


def _rounding(values: Tensor) -> float:
    return ROUNDING.get(values.dtype, 1e-6)


def angles(values: Float[Tensor, " n"], residual: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return residual over distance to the nearest other value (Davis and Kahan 1970), at most 1."""
    gap = torch.full_like(values, torch.inf)
    if len(values) > 1:
        steps = (values[:-1] - values[1:]).abs()
        gap[:-1] = steps
        gap[1:] = torch.minimum(gap[1:], steps)
    return (residual / gap.clamp_min(torch.finfo(values.dtype).tiny)).clamp(max=1)


def top_eigenvectors(
    squared: Squared, start: Float[Tensor, "b side"], k: int, angle: float = ANGLE
) -> Float[Tensor, "k side"] | None:
    """Return the eigenvectors of the k largest eigenvalues of M as rows; None if not converged."""
    basis = _Basis(squared, start)
    while not basis.converged(k, angle):
        if not basis.extend():
            return None
    return basis.combined[:, :k].T @ basis.rows[: basis.size]


def orthonormalised(rows: Float[Tensor, "b n"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b b"]]:
    """Return orthonormal rows Q and R with rows = Rᵀ Q, by the Cholesky factor of the Gram matrix, twice.

    A third of the time of Householder's way, which takes over where the rows are too close to dependent
    (Yamamoto et al. 2015).
    """
    total = torch.eye(len(rows), dtype=torch.float64, device=rows.device)
    q = rows
    for _ in range(2):
        factor, failed = torch.linalg.cholesky_ex((q @ q.T).double())
        if bool(failed):
            q, r = torch.linalg.qr(rows.T)
            return q.T.contiguous(), r
        q = torch.linalg.solve_triangular(factor.to(q.dtype), q, upper=False)
        total = total @ factor
    return q, total.T.to(rows.dtype)


class _Basis:
    """A growing orthonormal basis K of the Krylov space of M, with T = K M Kᵀ."""

    def __init__(self, squared: Squared, start: Float[Tensor, "b side"]) -> None:
        self.squared, self.block = squared, len(start)
        self.limit = min(start.shape[1] - self.block, 40 * self.block)
        self.rows = start.new_empty(self.limit + self.block, start.shape[1])
        self.t = start.new_zeros(self.limit + self.block, self.limit + self.block)
        self.rows[: self.block], self.size, self.checked = start, 0, 0
        self.extend()

    def extend(self) -> bool:
        """Multiply the newest block and make the next of the result; return False where there is no room."""
        start, end = self.size, self.size + self.block
        if end > self.limit:
            return False
        rest, known = self.squared(self.rows[start:end]), self.rows[:end]
        for _ in range(2):  # twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9)
            part = rest @ known.T
            self.t[start:end, :end] += part
            rest = torch.addmm(rest, part, known, alpha=-1)
        self.t[:end, start:end] = self.t[start:end, :end].T
        following, self.coupling = orthonormalised(rest)
        sizes = self.coupling.diagonal().abs()
        if float(sizes.min()) < 1e-3 * float(sizes.max()):
            # A row that was little but rounding has become a direction that may lie in the basis.
            following = torch.linalg.qr((following - (following @ known.T) @ known).T)[0].T
        self.rows[end : end + self.block], self.size = following, end
        return True

    def converged(self, k: int, angle: float) -> bool:
        """Return whether the k largest Ritz pairs are accurate to this angle, or to what rounding allows."""
        if self.size < 4 * self.block or self.size - self.checked < 2 * self.block:
            return False  # the check costs as much as a step or two
        self.checked = self.size
        t = self.t[: self.size, : self.size]
        values, vectors = torch.linalg.eigh((t + t.T) / 2)
        values, self.combined = values.flip(0)[: k + 1], vectors.flip(1)[:, : k + 1]
        # M y - θ y has parts outside the basis only by its last block: ‖R s_last‖.
        residual = (self.coupling @ self.combined[self.size - self.block :]).norm(dim=0)
        floor = _rounding(values) * values[0]
        error = angles(values, torch.maximum(residual, floor))
        return bool(((error[:k] <= angle) | (residual[:k] <= floor)).all())
