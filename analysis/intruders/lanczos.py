"""Lanczos iterations side by side, in double precision, each vector kept orthogonal to all before; vectors are rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from analysis.intruders.measure import Jacobi, Numbers, gaps, resolution

EXHAUSTED = 1e-12
"""A coupling β this small beside the largest α is rounding: the Krylov space holds all that y has."""
PROBE_ANGLE = 0.02
"""Of 1/√n, about what a random vector has along a given direction: how far a probe may lead from a simple eigenvector."""


@dataclass
class Lanczos:
    """Several Lanczos iterations side by side, those still open."""

    rows: Tensor
    """(open, n): the newest vectors."""
    alpha: list[Tensor] = field(default_factory=list)
    beta: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = self.rows / self.rows.norm(dim=1, keepdim=True)
        self.basis = self.rows.new_empty(len(self.rows), 16, self.rows.shape[1])
        self.basis[:, 0] = self.rows

    @property
    def steps(self) -> int:
        """Return the steps taken."""
        return len(self.alpha)

    def absorb(self, product: Float[Tensor, "open n"]) -> None:
        """Take A q of the newest vectors q: α = qᵀA q, and the next vector from what is orthogonal to all so far."""
        known = self.basis[:, : self.steps + 1]
        first = torch.bmm(known, product[:, :, None])
        rest = product - torch.bmm(first.transpose(1, 2), known)[:, 0]
        again = torch.bmm(known, rest[:, :, None])
        rest = rest - torch.bmm(again.transpose(1, 2), known)[:, 0]
        beta = rest.norm(dim=1)
        self.alpha.append(first[:, -1, 0] + again[:, -1, 0])
        self.beta.append(beta)
        self.rows = rest / beta.clamp_min(torch.finfo(beta.dtype).tiny)[:, None]
        if self.steps == self.basis.shape[1]:
            self.basis = torch.cat([self.basis, torch.empty_like(self.basis)], dim=1)
        self.basis[:, self.steps] = self.rows

    def keep(self, mask: Tensor) -> None:
        """Go on with some of the iterations."""
        self.rows, self.basis = self.rows[mask], self.basis[mask]
        self.alpha = [values[mask] for values in self.alpha]
        self.beta = [values[mask] for values in self.beta]

    def exhausted(self) -> bool:
        """Return whether some iteration has nothing left to find."""
        return bool((self.beta[-1] <= EXHAUSTED * torch.stack(self.alpha).amax(0)).any())

    def jacobi(self) -> Jacobi:
        """Return the Jacobi matrices so far."""
        alpha, beta = torch.stack(self.alpha, 1), torch.stack(self.beta, 1)
        return Jacobi(alpha.cpu().numpy(), beta.cpu().numpy())

    def ritz_vector(self, row: int, index: int) -> Tensor:
        """Return the Ritz vector of one iteration that belongs to its index-th value."""
        values = np.zeros((self.steps, self.steps))
        jacobi = self.jacobi()
        values[np.diag_indices(self.steps)] = jacobi.alpha[row]
        at = np.arange(self.steps - 1)
        values[at, at + 1] = values[at + 1, at] = jacobi.beta[row, :-1]
        weights = torch.from_numpy(np.linalg.eigh(values)[1][:, index]).to(self.rows)
        return weights @ self.basis[row, : self.steps]


def simple(
    squared: Callable[[Tensor], Tensor], found: Float[Tensor, "a n"], values: Numbers, tolerance: float, steps: int
) -> NDArray[np.bool_]:
    """Return which of these eigenvectors are the only ones to their eigenvalue, as far as `tolerance` tells.

    Lanczos from one vector sees one eigenvector of an eigenspace, however many there are. So begin again from
    u + z with a random unit z: with one eigenvector that leads back to u, with d of them to u + P z, which is
    about √((d - 1) / n) away from it. What has not converged after `steps` is not known to be simple.
    """
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(found.shape, generator=generator, dtype=torch.float64).to(found)
    lanczos = Lanczos(found + probe / probe.norm(dim=1, keepdim=True))
    open_rows, result = np.arange(len(found)), np.zeros(len(found), dtype=bool)
    limit = PROBE_ANGLE / found.shape[1] ** 0.5
    for step in range(1, min(steps, found.shape[1]) + 1):
        lanczos.absorb(squared(lanczos.rows))
        if step % 8 and not lanczos.exhausted():
            continue
        ritz, _, residuals = lanczos.jacobi().ritz()
        nearest = np.abs(ritz - values[open_rows, None]).argmin(axis=1)[:, None]
        angles = np.take_along_axis(residuals / np.maximum(gaps(ritz), np.finfo(float).tiny), nearest, 1)[:, 0]
        close = np.take_along_axis(residuals, nearest, 1)[:, 0] <= tolerance * ritz[:, -1]
        crowded = np.take_along_axis(gaps(ritz) <= resolution(ritz), nearest, 1)[:, 0]
        done = ((angles <= limit / 2) | crowded) & close
        for at in np.flatnonzero(done):
            vector = lanczos.ritz_vector(int(at), int(nearest[at, 0]))
            off = vector - (vector @ found[open_rows[at]]) * found[open_rows[at]]
            result[open_rows[at]] = float(off.norm()) <= limit and not crowded[at]
        open_rows = open_rows[~done]
        if not len(open_rows) or lanczos.exhausted():
            break
        lanczos.keep(torch.from_numpy(~done).to(found.device))
    return result
