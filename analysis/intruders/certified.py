"""``algorithm=certified``: no decomposition of the base; Lanczos from each tuned vector, and a proof either way.

The weights ⟨x_i, y⟩² of all base left vectors x_i are the atoms of the measure of y under A = W0 W0ᵀ.

- The Christoffel function bounds every atom from above: where it stays below ε², y is an intruder.
- A converged Ritz vector is an eigenvector; where its weight reaches ε², y is none.

Both sides advance together: each pass over W0 serves the left vectors of one half-step and the right
vectors of the other. Vectors are rows, in double precision, each kept orthogonal to all before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from analysis.changes import Change
from analysis.intruders.detection import Detection, Numbers, Side
from analysis.intruders.lanczos import EXHAUSTED, Lanczos, simple
from analysis.intruders.measure import Jacobi, gaps, heaviest, resolution, together
from analysis.intruders.reference import Reference
from analysis.krylov import Product, TopVectors, top_singular

MAX_STEPS = 160
"""Then the exact decomposition is cheaper: at 4096 × 4096 it takes as long as about 200 steps."""
PATIENCE = 16
"""Steps spent on the cluster-aware bound after the count itself is decided."""
CONVERGED = 1e-8
"""Residual over the largest Ritz value of an eigenvector: base vectors whose σ² differ by more are told apart."""
CLEAR = 1e-5
"""The residual that is enough where the angle to the eigenvector, by the next Ritz value, is below `CLEAR_ANGLE`."""
CLEAR_ANGLE = 0.01
MARGIN = 1e-9
"""By which a proof must clear the threshold; rounding in the recurrence is smaller."""


class Certified:
    """A base matrix in double precision, and no more."""

    name = "certified"

    def __init__(self, base: Float[Tensor, "out in"], k: int, eps: float, width: float) -> None:
        self.base, self.k, self.eps, self.width = base, k, eps, width
        self.exact = Reference(base, k, width)

    @cached_property
    def double(self) -> Float[Tensor, "out in"]:
        """Return W0 in double precision."""
        return self.base.double()

    def detect(self, change: Change) -> Detection:
        """Return the k largest tuned vectors with a proof for each, or the exact cosines where none was found."""
        top = top_singular(Product.of(self.base, change), self.k)
        left, right = self.sides(top.u, top.v)
        return Detection(top, left, right)

    @cached_property
    def largest(self) -> TopVectors:
        """Return the base's own k largest singular vectors: most tuned vectors that are no intruders are near one."""
        return top_singular(Product(self.base), self.k)

    def sides(self, u: Float[Tensor, "out a"], v: Float[Tensor, "in b"]) -> tuple[Side, Side]:
        """Return what holds of left and of right vectors."""
        left, right = self._beside(self.largest.u, u), self._beside(self.largest.v, v)
        rows = [side.undecided(self.eps) for side in (left, right)]
        if rows[0] or rows[1]:
            proofs = prove(self.double, u[:, rows[0]].T.double(), v[:, rows[1]].T.double(), self.eps, self.width)
            for side, open_rows, proof in zip((left, right), rows, proofs, strict=True):
                side.replace(open_rows, proof.side)
        self._fall_back(left, u, "u")
        self._fall_back(right, v, "v")
        return left, right

    def _beside(self, base: Float[Tensor, "n k"], tuned: Float[Tensor, "n j"]) -> Side:
        """Return what the base's largest vectors alone say: a cosine of at least ε with one of them is proof enough."""
        cosines = (base.T @ tuned).abs().T.double().cpu().numpy()
        low = np.clip(cosines - 1.5 * self.largest.error.double().cpu().numpy(), 0, 1).max(axis=1, initial=0.0)
        # What one base vector carries no other can.
        high = np.sqrt(np.clip(np.maximum(cosines.max(axis=1, initial=0.0) ** 2, 1 - low**2), 0, 1))
        near = low >= self.eps
        high = np.where(near, np.clip(high + CLEAR_ANGLE, 0, 1), 1.0)
        decided = np.where(near, "ritz", "undecided").tolist()
        return Side(low, high, low.copy(), np.ones(len(low)), decided, [0] * len(low))

    def _fall_back(self, side: Side, vectors: Float[Tensor, "n j"], which: str) -> None:
        """Have the exact decomposition decide what is still open."""
        rows = side.undecided(self.eps)
        if rows:
            base = self.exact.factors.u if which == "u" else self.exact.factors.v
            side.replace(rows, self.exact.side(base, vectors[:, rows], "fallback"))


def _far_from_zero(values: Numbers, residuals: Numbers, tolerance: float) -> NDArray[np.bool_]:
    """Return which Ritz pairs have a residual below the tolerance, and a value that is not zero to within ten times it."""
    limit = tolerance * values[:, -1:]
    return (residuals <= limit) & (values > 10 * limit)


class _Proof:
    """The proofs for the vectors of one side as they come in."""

    def __init__(self, rows: Tensor, eps: float, width: float, floor: Callable[[], float] | None) -> None:
        count = len(rows)
        self.eps, self.width = eps, width
        self.lanczos = Lanczos(rows)
        self.floor, self.asked, self.above = floor, False, 0.0
        self.open = np.arange(count)
        self.decided_at = np.zeros(count, dtype=int)
        self.found: dict[int, tuple[float, Tensor]] = {}
        ones, zeros = np.ones(count), np.zeros(count)
        self.side = Side(zeros, ones, zeros.copy(), ones.copy(), ["undecided"] * count, [0] * count)

    def check(self) -> None:
        """Look for proofs, and drop the iterations that need no more steps."""
        jacobi = self.lanczos.jacobi()
        values, weights, residuals = jacobi.ritz()
        largest = values[:, -1:]
        angles = residuals / np.maximum(gaps(values), np.finfo(float).tiny)
        converged = _far_from_zero(values, residuals, CONVERGED)
        converged |= _far_from_zero(values, residuals, CLEAR) & (angles <= CLEAR_ANGLE)
        converged &= gaps(values) > resolution(values)
        # |⟨x, y⟩| ≥ |⟨u, y⟩| cos φ - sin φ for an eigenvector x at an angle φ to the Ritz vector u.
        cosines = np.where(converged, np.maximum(np.sqrt(weights) - 1.5 * angles, 0), 0.0)
        done = jacobi.beta[:, -1] <= EXHAUSTED * largest[:, 0]
        self._bound_below(values, cosines)
        self._bound_above(jacobi, values, weights, done)
        self._note_eigenvectors(values, cosines**2)
        for row in self.open:
            self.side.steps[row] = self.lanczos.steps
        self._drop(done)

    def _bound_below(self, values: Numbers, cosines: Numbers) -> None:
        side, at = self.side, self.open
        side.low[at] = np.maximum(side.low[at], cosines.max(axis=1))
        clusters = np.sqrt(together(values, cosines**2, self.width))
        side.cluster_low[at] = np.maximum(side.cluster_low[at], clusters)

    def _bound_above(self, jacobi: Jacobi, values: Numbers, weights: Numbers, done: Numbers) -> None:
        side, at = self.side, self.open
        limit = self.eps**2 / (1 + MARGIN)
        proved = heaviest(jacobi, values, self.above, 0.0, limit)
        if self.floor and not self.asked and (self._blocked_at_zero(values, weights, proved) or done.any()):
            self.asked = True
            self.above = self.floor()
            proved = heaviest(jacobi, values, self.above, 0.0, limit)
        # A measure that is exhausted has no atoms but those found, one below the floor being no base vector's.
        atoms = together(values, np.where(values >= self.above / 2 if self.above else True, weights, 0.0), 0.0)
        proved = np.where(done, np.minimum(proved, atoms), proved)
        side.high[at] = np.minimum(side.high[at], np.sqrt(proved))
        small = np.flatnonzero(proved < limit)
        if len(small):
            some = Jacobi(jacobi.alpha[small], jacobi.beta[small])
            windows = heaviest(some, values[small], self.above, self.width, limit)
            side.cluster_high[at[small]] = np.minimum(side.cluster_high[at[small]], np.sqrt(windows))
        # Once the heaviest atom is known, the others share what it leaves.
        side.high[at] = np.minimum(
            side.high[at], np.sqrt(np.maximum(side.low[at] ** 2, 1 - side.low[at] ** 2)) + 2 * CLEAR_ANGLE
        )

    def _blocked_at_zero(self, values: Numbers, weights: Numbers, proved: Numbers) -> bool:
        """Return whether a heavy atom at zero, outside a tall matrix's column space, may be all that is in the way."""
        near = values <= 0.1 * values[:, -1:]
        heavy = (np.where(near, weights, 0.0).sum(axis=1) >= self.eps**2) & (proved >= 1)
        return bool((heavy & (self.side.low[self.open] < self.eps)).any())

    def _note_eigenvectors(self, values: Numbers, sure: Numbers) -> None:
        for at, row in enumerate(self.open):
            best = int(sure[at].argmax())
            if sure[at, best] >= self.eps**2 and row not in self.found:
                self.found[row] = (values[at, best], self.lanczos.ritz_vector(at, best))

    def _drop(self, done: Numbers) -> None:
        side, at = self.side, self.open
        intruder, none = side.high[at] < self.eps, side.low[at] >= self.eps
        for row, is_intruder, is_none in zip(at, intruder, none, strict=True):
            if (is_intruder or is_none) and not self.decided_at[row]:
                self.decided_at[row] = self.lanczos.steps
                side.decided[row] = "christoffel" if is_intruder else "ritz"
        cluster = (side.cluster_high[at] < self.eps) | (side.cluster_low[at] >= self.eps)
        waited = (self.decided_at[at] > 0) & (self.lanczos.steps >= self.decided_at[at] + PATIENCE)
        stay = ~(none | (intruder & (cluster | waited)) | done)
        self.open = at[stay]
        self.lanczos.keep(torch.from_numpy(stay).to(self.lanczos.rows.device))

    def reopen_degenerate(self, squared: Callable[[Tensor], Tensor]) -> None:
        """Withdraw "no intruder" where the eigenvector found may be one of several to one eigenvalue.

        In an eigenspace of dimension d a Ritz vector is y's projection, while a decomposition returns some
        basis of it, of which the best vector may have no more than a share 1 / d of the weight.
        """
        if not self.found:
            return
        rows = list(self.found)
        vectors = torch.stack([self.found[row][1] for row in rows])
        alone = simple(squared, vectors, np.array([self.found[row][0] for row in rows]), CLEAR, MAX_STEPS)
        for row, is_simple in zip(rows, alone, strict=True):
            if not is_simple:
                self.side.low[row], self.side.high[row], self.side.decided[row] = 0.0, 1.0, "undecided"


def prove(
    w: Float[Tensor, "out in"], u: Float[Tensor, "a out"], v: Float[Tensor, "b in"], eps: float, width: float
) -> tuple[_Proof, _Proof]:
    """Run Lanczos under W0 W0ᵀ from rows u and under W0ᵀW0 from rows v until each is decided or `MAX_STEPS` are done."""
    tall, wide = w.shape[0] > w.shape[1], w.shape[0] < w.shape[1]
    floor = _Floor(w)
    left, right = _Proof(u, eps, width, floor if tall else None), _Proof(v, eps, width, floor if wide else None)
    half = right.lanczos.rows @ w.T
    limit = min(MAX_STEPS, *(max(side) for side in [w.shape]))
    for step in range(1, limit + 1):
        rows = left.lanczos.rows
        both = torch.cat([rows, half]) @ w
        if len(half):
            right.lanczos.absorb(both[len(rows) :])
        if len(right.open) and (_due(step) or right.lanczos.exhausted()):
            right.check()
        both = torch.cat([both[: len(rows)], right.lanczos.rows]) @ w.T
        half = both[len(rows) :]
        if len(rows):
            left.lanczos.absorb(both[: len(rows)])
        if len(left.open) and (_due(step) or left.lanczos.exhausted()):
            left.check()
        if not len(left.open) and not len(right.open):
            break
    left.reopen_degenerate(lambda rows: (rows @ w) @ w.T)
    right.reopen_degenerate(lambda rows: (rows @ w.T) @ w)
    return left, right


def _due(step: int) -> bool:
    """Return whether to look for proofs after this step: a look costs as much as a step of a small matrix."""
    return step in (3, 5, 7, 9, 11, 13, 15, 18, 21, 25, 30, 35, 40, 48, 56, 64) or (step > 64 and step % 12 == 0)


class _Floor:
    """A lower bound on the nonzero eigenvalues of W0 W0ᵀ for a matrix that is not square, computed when asked for.

    Below it only the atom at zero can lie, which belongs to no base vector. Zero where the matrix has no
    full rank, or none that rounding lets one see: then nothing can be said.
    """

    def __init__(self, w: Float[Tensor, "out in"]) -> None:
        self.w = w
        self.value: float | None = None

    def __call__(self) -> float:
        """Return the bound: the largest of a few shifts τ for which the smaller Gram matrix less τ is positive definite."""
        if self.value is None:
            w = self.w if self.w.shape[0] < self.w.shape[1] else self.w.T
            gram = w @ w.T
            scale, identity = float(gram.diagonal().max()), torch.eye(len(gram), dtype=w.dtype, device=w.device)
            shifts = (10.0**-power * scale for power in range(1, 9))
            self.value = next((shift for shift in shifts if _positive(gram - shift * identity)), 0.0)
        return self.value


def _positive(matrix: Float[Tensor, "n n"]) -> bool:
    return not bool(torch.linalg.cholesky_ex(matrix).info)
