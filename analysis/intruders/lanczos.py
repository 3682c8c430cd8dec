"""Lanczos iterations side by side, each vector kept orthogonal to all before; vectors are rows."""

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
CANCELLED = 0.7
"""Where less than this is left of a product, rounding in what was taken away shows: it is taken away twice (Kahan)."""
PROBE_ANGLE = 0.02
"""Of 1/√n, what a random vector has along a given direction: how far a probe may lead from a simple eigenvector."""


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
        parts = torch.bmm(known, product[:, :, None])
        rest = product - torch.bmm(parts.transpose(1, 2), known)[:, 0]
        beta = rest.norm(dim=1)
        if bool((beta < CANCELLED * product.norm(dim=1)).any()):
            more = torch.bmm(known, rest[:, :, None])
            rest, parts = rest - torch.bmm(more.transpose(1, 2), known)[:, 0], parts + more
            beta = rest.norm(dim=1)
        self.alpha.append(parts[:, -1, 0])
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
        return Jacobi(alpha.double().cpu().numpy(), beta.double().cpu().numpy())

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
    rows, result = np.arange(len(found)), np.zeros(len(found), dtype=bool)
    for step in range(1, min(steps, found.shape[1]) + 1):
        lanczos.absorb(squared(lanczos.rows))
        if step % 8 and not lanczos.exhausted():
            continue
        done, alone = _led_back(lanczos, found[torch.from_numpy(rows)], values[rows], tolerance)
        result[rows[alone]] = True
        rows = rows[~done]
        if not len(rows) or lanczos.exhausted():
            break
        lanczos.keep(torch.from_numpy(~done).to(found.device))
    return result


def _led_back(lanczos: Lanczos, found: Tensor, values: Numbers, tolerance: float) -> tuple[NDArray[np.bool_], ...]:
    """Return which probes have converged, and which of them to the eigenvector they began from and to one alone."""
    ritz, _, residuals = lanczos.jacobi().ritz()
    nearest = np.abs(ritz - values[:, None]).argmin(axis=1)
    at = np.arange(len(ritz)), nearest
    apart, limit = np.maximum(gaps(ritz)[at], np.finfo(float).tiny), PROBE_ANGLE / found.shape[1] ** 0.5
    crowded = apart <= resolution(ritz)[at]
    done = ((residuals[at] <= apart * limit / 2) | crowded) & (residuals[at] <= tolerance * ritz[:, -1])
    alone = done & ~crowded
    for row in np.flatnonzero(alone):
        vector = lanczos.ritz_vector(int(row), int(nearest[row]))
        alone[row] = float((vector - (vector @ found[row]) * found[row]).norm()) <= limit
    return done, alone
