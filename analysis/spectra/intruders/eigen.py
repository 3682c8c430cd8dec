"""``algorithm=eigen``: one symmetric eigendecomposition per base matrix, kept on disk for every run of a sweep.

With A = W0 W0ᵀ = X Λ Xᵀ on the shorter side, M = W Wᵀ of a low-rank change is, in the coordinates of X,
a diagonal plus rank 2r: a product with M costs n · 2r instead of 2 · n · m multiplications.

The decomposition is in float32. How good it is, and how good each tuned vector, is measured in double precision
afterwards; with that every cosine gets its bounds (`bounds`). A matrix with a vector that these leave open is
decomposed again in double precision. "Near" is the shorter side, "far" the longer one; vectors are rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.changes import Change, Dense, LowRank
from analysis.spectra.intruders.bounds import Numbers, cosine_bounds
from analysis.spectra.intruders.decompositions import base_vectors
from analysis.spectra.intruders.detection import Detection, Side, largest_window
from analysis.spectra.singular import DiagonalPlus, TopVectors, top_left

WHOLE = 1024
"""Up to this side products with all base vectors are taken in double precision; above, their rounding is bounded."""
ROWS = 1024
"""Of a matrix at once in double precision."""
UNKNOWN = 3.0
"""Times e: the far vector of a smaller eigenvalue cannot be told by W0ᵀ x / σ."""


class Tuned(NamedTuple):
    """The k largest singular triplets of W in double precision, and how far each direction can be off."""

    near: Float[Tensor, "k n"]
    s: Float[Tensor, " k"]
    far: Float[Tensor, "k m"]
    through: Float[Tensor, "k n"]
    """W0 v of the far vectors."""
    slack: Numbers
    """(2, k): of near and of far vectors."""


class Eigen:
    """A base matrix with its eigendecomposition."""

    name = "eigen"

    def __init__(self, base: Float[Tensor, "out in"], k: int, eps: float, width: float, cache: Path | None) -> None:
        self.base, self.k, self.eps, self.width, self.cache = base, k, eps, width, cache
        self.tall = base.shape[0] > base.shape[1]
        self.short = base.T if self.tall else base
        self.known = base_vectors(self.short, cache)

    @property
    def sigma(self) -> Float[Tensor, " n"]:
        """Return the base's singular values, rising, in double precision on the CPU."""
        return self.known.values.double().sqrt().cpu()

    def detect(self, change: Change) -> Detection:
        """Return the k largest tuned vectors with their cosines against every base vector."""
        tuned = self._tuned(change.T if self.tall else change)
        near, far = self._sides(tuned)
        found = TopVectors(tuned.near.T, tuned.s, tuned.far.T)
        if self.tall:
            near, far, found = far, near, TopVectors(found.v, found.s, found.u)
        self._settle(near, far, change)
        return Detection(found, near, far)

    def _settle(self, left: Side, right: Side, change: Change) -> None:
        """Have double precision decide what the bounds leave open."""
        rows = [side.undecided(self.eps) for side in (left, right)]
        if (rows[0] or rows[1]) and self.base.dtype != torch.float64:
            exact = self._double.detect(change.double())
            left.replace(rows[0], exact.left, "double")
            right.replace(rows[1], exact.right, "double")

    @cached_property
    def _double(self) -> Eigen:
        return Eigen(self.base.double(), self.k, self.eps, self.width, self.cache)

    def _tuned(self, change: Change) -> Tuned:
        """Return the largest triplets of W with residuals measured in double precision.

        One more is computed than is asked for, as a vector is known by the distance to its neighbours' values.
        """
        count = min(self.k + 1, len(self.short))
        rows = self._in_coordinates(change, count) if isinstance(change, LowRank) else None
        if rows is None:
            rows = top_left(self.short + change.dense(), count)
        y = rows.double() / rows.double().norm(dim=1, keepdim=True)
        p, image = self._products(y, change)
        s = p.norm(dim=1)
        v = p / s[:, None]
        slack = _slack(s, (image - s.square()[:, None] * y).norm(dim=1))[:, : self.k]
        y, s, v, image = (one[: self.k] for one in (y, s, v, image))
        return Tuned(y, s, v, image / s[:, None] - change.double().times(v.T).T, slack)

    def _products(self, rows: Float[Tensor, "b n"], change: Change) -> tuple[Tensor, Tensor]:
        """Return rows · W and rows · W Wᵀ in double precision, some rows of W at a time."""
        low = change.double() if isinstance(change, LowRank) else None
        whole = [self._block(change, 0)] if len(self.short) <= ROWS else None
        p = torch.stack([rows[:, at] @ block for at, block in whole or self._blocks(change)]).sum(0)
        if low is not None:
            p = p + low.transposed_times(rows.T).T
        image = torch.cat([p @ block.T for _, block in whole or self._blocks(change)], dim=1)
        return p, image if low is None else image + low.times(p.T).T

    def _blocks(self, change: Change) -> Iterator[tuple[slice, Tensor]]:
        yield from (self._block(change, start) for start in range(0, len(self.short), ROWS))

    def _block(self, change: Change, start: int) -> tuple[slice, Tensor]:
        """Return some rows of W0, of W where the change is dense, in double precision."""
        at = slice(start, start + ROWS)
        block = self.short[at].double()
        return at, block + change.delta[at] if isinstance(change, Dense) else block

    def _in_coordinates(self, change: LowRank, count: int) -> Float[Tensor, "k n"] | None:
        """Return the largest eigenvectors of M = Λ + F Gᵀ + G Fᵀ, back in the coordinates of the matrix.

        With F = B, H = A: W Wᵀ = W0 W0ᵀ + F Gᵀ + G Fᵀ, G = W0 Hᵀ + F H Hᵀ / 2.
        """
        vectors = self.known.vectors
        g = change.a @ self.short.T + (change.a @ change.a.T / 2) @ change.b.T
        f_rows, g_rows = (torch.cat([change.b.T, g]) @ vectors.T).double().cpu().split(change.b.shape[1])
        found = DiagonalPlus(self.known.values.double().cpu(), f_rows, g_rows).top(count)
        return None if found is None else found.to(vectors) @ vectors

    def _sides(self, tuned: Tuned) -> tuple[Side, Side]:
        """Return what holds of near and of far vectors."""
        rows, rounding = self._coordinates(torch.cat([tuned.near, tuned.through]))
        values: Numbers = self.known.values.double().cpu().numpy()
        k, s = len(tuned.s), np.sqrt(np.maximum(values, UNKNOWN * self.known.error))
        low, high = cosine_bounds(rows[:k], values, self.known.error)
        near = self._side(np.abs(rows[:k]), low.max(1), high.max(1), s, tuned.slack[0] + rounding[:k])
        cos, low, high, rest = far_bounds(rows[k:], values, self.known.error, rounding[k:])
        far = self._side(cos, low, np.maximum(high, rest), s, tuned.slack[1])
        far.cluster = np.maximum(far.cluster, rest)
        return near, far

    def _side(self, cos: Numbers, low: Numbers, high: Numbers, s: Numbers, slack: Numbers) -> Side:
        cluster = np.sqrt(largest_window(cos**2, s, self.width))
        ends = np.clip(low - slack, 0, 1), np.clip(high + slack, 0, 1)
        return Side(cos.max(axis=1), *ends, cluster, ["eigen"] * len(cos))

    def _coordinates(self, rows: Float[Tensor, "b n"]) -> tuple[Numbers, Numbers]:
        """Return the coordinates of rows in the base's vectors, and how far each of a row's can be off.

        A sum of n products in float32 is off by at most (n + 2) u Σ|a b|, u = 2⁻²⁴ (Higham 2002, section 3.1); the
        orthonormal vectors that the bounds speak of are off the computed ones by half of ν, to first order.
        """
        dtype, n = self.known.vectors.dtype, len(self.short)
        if n <= WHOLE or dtype == torch.float64:
            found, unit = rows @ self.known.vectors.double().T, 2.0**-53
        else:
            found, unit = (rows.to(dtype) @ self.known.vectors.T).double(), 2.0**-24
        off = (n + 2) * unit + self.known.turned
        return found.cpu().numpy(), off * rows.norm(dim=1).cpu().numpy()


def far_bounds(
    rows: Numbers, values: Numbers, error: float, rounding: Numbers
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Return |cos| of far vectors v as computed, bounds on the largest, and on what all unknown base vectors hold.

    `rows` are the coordinates b of W0 v: ⟨v, z_i⟩ = ⟨W0 v, x_i⟩ / σ_i. Where λ_i ≤ 3e that says nothing, and

        Σ_{t_i ≤ 4e} ⟨v, z_i⟩² ≤ 5/4 (1 - (W0 v)ᵀ (A + τ)⁻¹ W0 v),  τ = 16e

    since τ / (t + τ) ≥ 4/5 there; exchanging the computed A for the true one costs e ‖(A + τ)⁻¹ W0 v‖ / (2 √τ).
    """
    known = values > UNKNOWN * error
    low, high = cosine_bounds(rows, values, error)
    s = np.sqrt(np.where(known, values, 1.0))
    ends = np.sqrt(np.where(known, values - error, 1.0)), np.sqrt(np.where(known, values + error, 1.0))
    cos = np.where(known, np.abs(rows) / s, 0.0)
    high = np.where(known, (high + rounding[:, None]) / ends[0], 0.0).max(axis=1)
    low = np.where(known, (low - rounding[:, None]) / ends[1], 0.0).max(axis=1)
    rest = np.zeros(len(rows))
    if not known.all():
        tau = 16 * error
        inverse = np.sqrt((rows**2 / (values + tau) ** 2).sum(axis=1))
        slack = (error / (2 * np.sqrt(tau)) + 2 * rounding) * inverse
        rest = np.sqrt(1.25 * np.clip(1 - (rows**2 / (values + tau)).sum(axis=1) + slack, 0, 0.8))
    return cos, low, high, rest


def _slack(s: Float[Tensor, " k"], residual: Float[Tensor, " k"]) -> Numbers:
    """Return how far near and far vectors can be off: √2 ‖r‖ over the distance to the nearest other σ², at most 1.

    (Davis and Kahan 1970.) The far vector Wᵀ y / σ has the residual Wᵀ r / σ, larger by σ₁ / σ. Below the last value
    half of the distance is counted.
    """
    squares, r = s.square().cpu().numpy(), residual.cpu().numpy()
    steps = np.append(squares[:-1] - squares[1:], np.inf)
    steps[-2:-1] /= 2
    gaps = np.minimum(np.append(np.inf, steps[:-1]), steps) - r.max()
    near = 2**0.5 * r / np.maximum(gaps, np.maximum(r, np.finfo(float).tiny))
    farther = np.sqrt(squares[0] / np.maximum(squares, np.finfo(float).eps ** 2 * squares[0]))
    return np.minimum(1.0, np.stack([near, near * farther]))
