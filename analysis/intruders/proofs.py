"""Proofs, from Lanczos steps, that a vector is an intruder or is none.

- The mass bounds of `measure` hold for every atom: where the largest is below ε², y is an intruder.
- A converged Ritz vector is an eigenvector; where its weight reaches ε², y is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.intruders.detection import Side
from analysis.intruders.lanczos import EXHAUSTED, Lanczos, simple
from analysis.intruders.measure import Integers, Jacobi, Numbers, gaps, heaviest, resolution, together

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


Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Precision:
    """The precision of an iteration, and what it does to a proof.

    With each vector kept orthogonal to all before, rounding makes the iteration the exact one of A + E with
    ‖E‖ ≤ `error` ‖A‖; measured at 4096, 40 steps in float32: 1.3e-6. A base vector x of eigenvalue t lies, but for
    ‖E‖ / δ of it, in the eigenvectors of A + E within δ of t (Davis and Kahan 1970). In double precision ‖E‖ is
    beyond all that matters here.
    """

    dtype: torch.dtype
    error: float = 0.0
    """‖E‖ as a share of ‖A‖."""
    blur: float = 0.0
    """2δ as a share of ‖A‖: windows are that much wider."""
    leak: float = 0.0
    """‖E‖ / δ: the cosine may be that much larger."""
    steps: int = MAX_STEPS
    """After which to give up. Where the spectrum is crowded near zero the blur hides what double precision proves in
    40 steps: δ = 8e-5 ‖A‖ takes 46 of SmolLM2's steepest spectrum at side 2048, 1.6e-4 took 60 and left some open."""


SINGLE = Precision(torch.float32, error=2e-6, blur=1.6e-4, leak=1 / 40, steps=80)
DOUBLE = Precision(torch.float64)


def eigenvector_cosines(values: Numbers, weights: Numbers, residuals: Numbers) -> Numbers:
    """Return a lower bound on |⟨x, y⟩| for the base vector x that each Ritz vector has converged to, 0 where to none.

    With x at an angle φ to the Ritz vector u, |⟨x, y⟩| ≥ |⟨u, y⟩| cos φ - sin φ. Ritz values that decompositions
    in float32 do not tell apart count as not converged.
    """
    apart = gaps(values)
    angles = residuals / np.maximum(apart, np.finfo(float).tiny)
    converged = _far_from_zero(values, residuals, CONVERGED)
    converged |= _far_from_zero(values, residuals, CLEAR) & (angles <= CLEAR_ANGLE)
    converged &= apart > resolution(values)
    return np.where(converged, np.maximum(np.sqrt(weights) - 1.5 * angles, 0), 0.0)


def _far_from_zero(values: Numbers, residuals: Numbers, tolerance: float) -> Flags:
    """Return which Ritz pairs have a residual below the tolerance, and a value ten times that far from zero."""
    limit = tolerance * values[:, -1:]
    return (residuals <= limit) & (values > 10 * limit)


class Proof:
    """The proofs for the vectors of one side as they come in."""

    def __init__(
        self, rows: Tensor, eps: float, width: float, floor: Callable[[], float] | None, precision: Precision
    ) -> None:
        count = len(rows)
        self.eps, self.width, self.precision = eps, width, precision
        self.limit = max(0.0, eps - precision.leak) ** 2 / (1 + MARGIN)
        self.lanczos = Lanczos(rows)
        self.floor, self.asked, self.above = floor, False, 0.0
        self.open = np.arange(count)
        self.decided_at = np.zeros(count, dtype=int)
        self.found: dict[int, tuple[float, Tensor]] = {}
        ones, zeros = np.ones(count), np.zeros(count)
        self.side = Side(zeros, ones, zeros.copy(), ones.copy(), ["undecided"] * count, [0] * count)

    def advance(self, product: Tensor, look: bool) -> None:
        """Take the next step of every open iteration; look for proofs if it is time, or nothing is left to find."""
        if not len(self.open):
            return
        self.lanczos.absorb(product)
        if look or self.lanczos.exhausted():
            self.check()

    def check(self) -> None:
        """Look for proofs, and drop the iterations that need no more steps."""
        jacobi = self.lanczos.jacobi()
        values, weights, residuals = jacobi.ritz()
        cosines = eigenvector_cosines(values, weights, residuals + self.precision.error * values[:, -1:])
        exhausted = (jacobi.beta[:, -1] <= EXHAUSTED * values[:, -1]) & (self.precision is DOUBLE)
        if self.precision is DOUBLE:
            self._bound_below(values, cosines)
            self._note_eigenvectors(values, cosines)
        self._bound_above(jacobi, values, weights, exhausted)
        for row in self.open:
            self.side.steps[row] = self.lanczos.steps
        # In single precision what is likely none is left for double precision to prove.
        self._drop(exhausted if self.precision is DOUBLE else cosines.max(axis=1) >= self.eps)

    def _bound_below(self, values: Numbers, cosines: Numbers) -> None:
        side, at = self.side, self.open
        side.low[at] = np.maximum(side.low[at], cosines.max(axis=1))
        clusters = np.sqrt(together(values, cosines**2, self.width))
        side.cluster_low[at] = np.maximum(side.cluster_low[at], clusters)

    def _bound_above(self, jacobi: Jacobi, values: Numbers, weights: Numbers, exhausted: Flags) -> None:
        side, at = self.side, self.open
        proved = self._heaviest(jacobi, values, 0.0)
        if self.floor and not self.asked and (self._blocked_at_zero(values, weights, proved) or exhausted.any()):
            self.asked, self.above = True, max(0.0, self.floor() - self.precision.blur * values.max())
            proved = self._heaviest(jacobi, values, 0.0)
        # A measure that is exhausted has no atoms but those found, one below the floor being no base vector's.
        atoms = together(values, np.where(values >= self.above / 2 if self.above else True, weights, 0.0), 0.0)
        proved = np.where(exhausted, np.minimum(proved, atoms), proved)
        # Once the heaviest atom is known, the others share what it leaves.
        shared = np.sqrt(np.maximum(side.low[at] ** 2, 1 - side.low[at] ** 2)) + 2 * CLEAR_ANGLE
        side.high[at] = np.minimum(side.high[at], np.minimum(self._with_leak(proved), shared))
        self._bound_clusters_above(jacobi, values, np.flatnonzero(proved < self.limit))

    def _heaviest(self, jacobi: Jacobi, values: Numbers, width: float) -> Numbers:
        return heaviest(jacobi, values, self.above, width, self.limit, self.precision.blur)

    def _with_leak(self, masses: Numbers) -> Numbers:
        return np.where(masses < 1, np.sqrt(masses) + self.precision.leak, 1.0)

    def _bound_clusters_above(self, jacobi: Jacobi, values: Numbers, small: Integers) -> None:
        """Bound the projections on clusters of those of which every single vector is already known to be small."""
        if not len(small):
            return
        some, at = Jacobi(jacobi.alpha[small], jacobi.beta[small]), self.open[small]
        windows = self._heaviest(some, values[small], self.width)
        self.side.cluster_high[at] = np.minimum(self.side.cluster_high[at], self._with_leak(windows))

    def _blocked_at_zero(self, values: Numbers, weights: Numbers, proved: Numbers) -> bool:
        """Return whether a heavy atom at zero, outside a tall matrix's column space, may be all that is in the way."""
        near = values <= 0.1 * values[:, -1:]
        heavy = (np.where(near, weights, 0.0).sum(axis=1) >= self.eps**2) & (proved >= 1)
        return bool((heavy & (self.side.low[self.open] < self.eps)).any())

    def _note_eigenvectors(self, values: Numbers, cosines: Numbers) -> None:
        for at, row in enumerate(self.open.tolist()):
            best = int(cosines[at].argmax())
            if cosines[at, best] >= self.eps:
                self.found[row] = (float(values[at, best]), self.lanczos.ritz_vector(at, best))

    def _drop(self, done: Flags) -> None:
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

    def reopen_degenerate(self, squared: Callable[[Tensor], Tensor], steps: int) -> None:
        """Withdraw "no intruder" where the eigenvector found may be one of several to one eigenvalue.

        In an eigenspace of dimension d a Ritz vector is y's projection, while a decomposition returns some
        basis of it, of which the best vector may have no more than a share 1 / d of the weight.
        """
        if not self.found:
            return
        rows = list(self.found)
        vectors = torch.stack([self.found[row][1] for row in rows])
        alone = simple(squared, vectors, np.array([self.found[row][0] for row in rows]), CLEAR, steps)
        for row, is_simple in zip(rows, alone, strict=True):
            if not is_simple:
                self.side.low[row], self.side.high[row], self.side.decided[row] = 0.0, 1.0, "undecided"
