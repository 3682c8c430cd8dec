"""The largest eigenvectors of a diagonal matrix that a few directions were added to, by Davidson's iteration.

Rayleigh-Ritz over a growing space: a Ritz vector x of value θ with the residual r = M x - θ x is corrected along
(diag - θ)⁻¹ r (Davidson 1975). Outside the coordinates of the largest diagonal entries an eigenvector is
(θ - diag)⁻¹ applied to the directions added. So the space begins with these coordinates, these directions, and
(t - diag)⁻¹ of them for t the largest entry: one or two corrections are enough where a Krylov iteration takes ten
steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.krylov import OVERSAMPLING, angles

CORRECTIONS = 12
"""Then it is given up: over SmolLM2's matrices 1 or 2 are taken."""
EQUAL = 1e-6
"""Of the largest entry, the least distance that is divided by."""


@dataclass(frozen=True)
class DiagonalPlus:
    """M = diag(values) + Fᵀ G + Gᵀ F, the directions F and G as rows; in double precision, as there are few."""

    values: Float[Tensor, " n"]
    """Rising."""
    f: Float[Tensor, "r n"]
    g: Float[Tensor, "r n"]

    def times(self, rows: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Return M x for each row x."""
        return rows * self.values + (rows @ self.g.T) @ self.f + (rows @ self.f.T) @ self.g

    def above(self, t: float) -> int:
        """Return how many eigenvalues of M exceed t, from signs alone (Haynsworth 1968, Linear Algebra Appl. 1, 73-81).

        In [[diag - t, Uᵀ], [U, -C]] with U = [F; G] and C = C⁻¹ the swap of its halves, of r positive eigenvalues, both
        Schur complements count the same: #(M > t) + r = #(diag > t) + #(-C - U (diag - t)⁻¹ Uᵀ > 0).
        """
        u, rank = torch.cat([self.f, self.g]), len(self.f)
        swap = torch.eye(2 * rank, dtype=u.dtype, device=u.device).roll(rank, 0)
        complement = -swap - (u / (self.values - t)) @ u.T
        return int((self.values > t).sum()) + int((torch.linalg.eigvalsh(complement) > 0).sum()) - rank


def beginning(k: int, rank: int) -> int:
    """Return the dimension of the space to begin with: an iteration over most of the whole is of no use."""
    return _kept(k) + 4 * rank


def _kept(k: int) -> int:
    return 2 * k + OVERSAMPLING


def top_of_diagonal_plus(m: DiagonalPlus, k: int, angle: float, rounding: float) -> Float[Tensor, "k n"] | None:
    """Return the eigenvectors of the k largest eigenvalues of M as rows; None if not converged, or if one was missed.

    `rounding` is the error of M itself, as a share of its largest eigenvalue: residuals below it say nothing more.
    """
    space = _Space(m, _kept(k))
    for _ in range(CORRECTIONS):
        values, vectors, residuals = space.ritz(k)
        sizes, floor = residuals.norm(dim=1), rounding * float(values[0])
        error = angles(values, sizes.clamp_min(floor))[:k]
        missing = (error > angle) & (sizes[:k] > floor)
        if not bool(missing.any()):
            return vectors[:k] if m.above(float(values[k - 1] + values[k]) / 2) == k else None
        space.correct(values[:k][missing], residuals[:k][missing], floor)
    return None


class _Space:
    """An orthonormal basis K, as rows, and its images M Kᵀ."""

    def __init__(self, m: DiagonalPlus, kept: int) -> None:
        self.m, self.rest = m, len(m.values) - kept
        added = torch.cat([m.f, m.g])[:, : self.rest]
        apart = (m.values[-1] - m.values[: self.rest]).clamp_min(EQUAL * float(m.values[-1]))
        added = torch.linalg.qr(torch.cat([added, added / apart]).T)[0].T
        self.basis = torch.block_diag(added, torch.eye(kept, dtype=added.dtype, device=added.device))
        self.images = m.times(self.basis)

    def ritz(self, k: int) -> tuple[Float[Tensor, " j"], Float[Tensor, "j n"], Float[Tensor, "j n"]]:
        """Return the k + 1 largest Ritz values, their vectors and residuals."""
        values, combined = torch.linalg.eigh(self.basis @ self.images.T)
        values, combined = values[-k - 1 :].flip(0), combined[:, -k - 1 :].flip(1).T
        vectors = combined @ self.basis
        return values, vectors, combined @ self.images - values[:, None] * vectors

    def correct(self, values: Float[Tensor, " j"], residuals: Float[Tensor, "j n"], floor: float) -> None:
        """Take the corrections of these Ritz vectors into the space; the kept coordinates have none left to correct."""
        apart = values[:, None] - self.m.values[: self.rest]
        new = torch.zeros_like(residuals)
        new[:, : self.rest] = residuals[:, : self.rest] / apart.clamp_min(floor)  # equal ones must not divide by zero
        for _ in range(2):  # twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9)
            new = torch.linalg.qr((new - (new @ self.basis.T) @ self.basis).T)[0].T
        self.basis = torch.cat([self.basis, new])
        self.images = torch.cat([self.images, self.m.times(new)])
