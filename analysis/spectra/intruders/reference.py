"""``algorithm=svd``: full singular value decompositions in double precision, the oracle."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.changes import Change
from analysis.spectra.intruders.bounds import Numbers, cosine_bounds
from analysis.spectra.intruders.detection import Detection, Side, largest_window
from analysis.spectra.measures import Factors, similarity_matrix
from analysis.spectra.singular import TopVectors


class Reference:
    """Decompose the base once and every tuned matrix whole."""

    name = "svd"

    def __init__(self, base: Float[Tensor, "out in"], k: int, width: float) -> None:
        self.base, self.k, self.width = base.double(), k, width

    @cached_property
    def factors(self) -> Factors:
        """Return the base's full decomposition."""
        return _factors(self.base)

    @property
    def sigma(self) -> Float[Tensor, " n"]:
        """Return the base's singular values, rising, in double precision on the CPU."""
        return self.factors.s.flip(0).cpu()

    def detect(self, change: Change) -> Detection:
        """Return the k largest tuned vectors with their cosines against every base vector."""
        w = self.base + change.double().dense()
        u, s, v = _factors(w)
        slack = _angles(s, _error(w, Factors(u, s, v)))[: self.k]
        u, s, v = u[:, : self.k], s[: self.k], v[:, : self.k]
        sides = [self.side(base, tuned, slack) for base, tuned in ((self.factors.u, u), (self.factors.v, v))]
        return Detection(TopVectors(u, s, v), *sides)

    @cached_property
    def error(self) -> float:
        """Return how far the base's decomposition is from W0 W0ᵀ."""
        return _error(self.base, self.factors)

    def side(self, base: Float[Tensor, "n all"], tuned: Float[Tensor, "n k"], slack: Numbers) -> Side:
        """Return the cosines of tuned vectors against all base vectors of one side; `slack` is their own error."""
        coordinates: Numbers = (base.T @ tuned).T.flip(1).cpu().numpy()
        s: Numbers = self.factors.s.flip(0).cpu().numpy()
        # what lies outside the base's vectors belongs to the eigenvalue 0
        outside = np.sqrt(np.maximum(1 - (coordinates**2).sum(axis=1, keepdims=True), 0))
        low, high = cosine_bounds(np.hstack([outside, coordinates]), np.append(0, s**2), self.error)
        low, high = np.clip(low[:, 1:].max(1) - slack, 0, 1), np.clip(high[:, 1:].max(1) + slack, 0, 1)
        cos: Numbers = similarity_matrix(base, tuned).T.cpu().numpy().max(axis=1)
        # the null space is one cluster: its basis is arbitrary
        floored = np.maximum(s, max(self.base.shape) * float(np.finfo(np.float32).eps) * float(s[-1]))
        cluster = np.sqrt(largest_window(coordinates**2, floored, self.width))
        return Side(cos, low, high, cluster, ["svd"] * len(cos))


def _factors(w: Float[Tensor, "out in"]) -> Factors:
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    return Factors(u, s, vh.T)


def _error(w: Float[Tensor, "out in"], found: Factors) -> float:
    """Return ‖W Wᵀ - U S² Uᵀ‖ at most: (2 σ₁ + ρ) ρ + 2 ν σ₁², ρ = ‖W - U S Vᵀ‖ and ν = ‖UᵀU - I‖ or V's."""
    rest = float((w - (found.u * found.s) @ found.v.T).norm())
    identity = torch.eye(len(found.s), dtype=w.dtype, device=w.device)
    turned = max(float((side.T @ side - identity).norm()) for side in (found.u, found.v))
    largest = float(found.s[0])
    return (2 * largest + rest) * rest + 2 * turned * largest**2


def _angles(s: Float[Tensor, " n"], error: float) -> Numbers:
    """Return √2 e over the distance to the nearest other σ², at most 1 (Davis & Kahan 1970)."""
    squares: Numbers = s.square().cpu().numpy()
    steps = np.append(np.inf, np.append(squares[:-1] - squares[1:], np.inf))
    gaps = np.minimum(steps[:-1], steps[1:]) - 2 * error
    return np.minimum(1.0, 2**0.5 * error / np.maximum(gaps, error))
