"""What the first moments of a measure say of its atoms: the Christoffel function, rigorously over whole intervals.

A unit vector y and a symmetric A with eigenpairs (t_i, x_i) make the measure that has an atom of weight
⟨x_i, y⟩² at each t_i. m Lanczos steps from y give its Jacobi matrix T (diagonal α_0…α_{m-1}, off-diagonal
β_0…β_{m-2}) and so the orthonormal polynomials p_0…p_{m-1}:

    p_0 = 1,   β_i p_{i+1}(t) = (t - α_i) p_i(t) - β_{i-1} p_{i-1}(t)

No atom at t is heavier than the Christoffel function 1 / Σ_{i<m} p_i(t)² (Szegő, Orthogonal Polynomials, 3.41).

All functions take many measures at once, one a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Integers = NDArray[np.int64]

POINTS = 4
"""Cells between two neighbouring Ritz values before any is halved."""
HALVINGS = 12
"""A cell not settled by then is a 4096th of one: K is too close to the limit for this number of steps."""
LARGE = 1e100
"""p_i beyond this is scaled down, so that no square overflows."""


@dataclass(frozen=True)
class Jacobi:
    """The Jacobi matrices of several measures after the same number of steps."""

    alpha: Numbers
    """(measures, m)."""
    beta: Numbers
    """(measures, m); the last is the norm of what is left, the coupling to a step not taken."""

    def ritz(self) -> tuple[Numbers, Numbers, Numbers]:
        """Return Ritz values in rising order, the weights of the measure they stand for, and residuals ‖A u - θ u‖."""
        size = self.alpha.shape[1]
        t = np.zeros((len(self.alpha), size, size))
        at = np.arange(size)
        t[:, at, at] = self.alpha
        t[:, at[:-1], at[1:]] = t[:, at[1:], at[:-1]] = self.beta[:, :-1]
        values, vectors = np.linalg.eigh(t)
        return values, vectors[:, 0] ** 2, self.beta[:, -1:] * np.abs(vectors[:, -1])


def least_kernel(jacobi: Jacobi, values: Numbers, above: Numbers, enough: float) -> Numbers:
    """Return a lower bound, for each measure, on K(t) = Σ p_i(t)² over all t ≥ `above`; 0 where it is below `enough`.

    Below the smallest Ritz value and above the largest no p_i has a root, each p_i² grows outwards, and the
    bound at the end holds. Between them K is bounded over cells, see :func:`_over_cells`, and cells whose
    bound is too low are halved until it is not, or K itself is too low at a point.
    """
    points = np.maximum(_grid(values), above[:, None])
    bound = _over_cells(jacobi, points)
    at_points = _at_points(jacobi, points).min(axis=1)
    alive = at_points >= enough
    low = bound < enough
    rows, cells = np.nonzero(low & alive[:, None])
    least = np.where(low, np.inf, bound).min(axis=1, initial=np.inf)
    left, right = points[rows, cells], points[rows, cells + 1]
    for _ in range(HALVINGS):
        if not len(rows):
            break
        middle = (left + right) / 2
        halves = np.stack([left, middle, right], axis=1)
        some = Jacobi(jacobi.alpha[rows], jacobi.beta[rows])
        bounds, at_middle = _over_cells(some, halves), _at_points(some, middle[:, None])[:, 0]
        alive[rows[at_middle < enough]] = False
        settled = bounds >= enough
        np.minimum.at(least, np.repeat(rows, 2)[settled.ravel()], bounds[settled])
        open_left, open_right = ~settled[:, 0] & alive[rows], ~settled[:, 1] & alive[rows]
        left = np.concatenate([left[open_left], middle[open_right]])
        right = np.concatenate([middle[open_left], right[open_right]])
        rows = np.concatenate([rows[open_left], rows[open_right]])
    alive[rows] = False
    # One cell may not be there at all: a single step has one Ritz value.
    least = np.minimum(least, at_points)
    return np.where(alive, least, 0.0)


def _grid(values: Numbers) -> Numbers:
    """Return the Ritz values with `POINTS` - 1 points between each two."""
    steps = np.arange(POINTS) / POINTS
    inner = values[:, :-1, None] + (values[:, 1:] - values[:, :-1])[:, :, None] * steps
    return np.concatenate([inner.reshape(len(values), -1), values[:, -1:]], axis=1)


def _at_points(jacobi: Jacobi, points: Numbers) -> Numbers:
    """Return K(t) at points, or a lower bound of it where it is beyond 1e200."""
    total = np.zeros_like(points)
    for square, _ in _polynomials(jacobi, points):
        total += square
    return total


def _over_cells(jacobi: Jacobi, points: Numbers) -> Numbers:
    """Return a lower bound on K over each cell between neighbouring points.

    p_i has real roots only, so log|p_i| is concave between two of them and |p_i| is smallest at the ends of
    a cell without a root. Sturm: the number of sign changes in p_0(t)…p_i(t) is the number of roots of p_i
    above t, so a cell has no root of p_i where both ends count alike. Elsewhere p_i² is bounded by 0.
    """
    bound = np.zeros((len(points), points.shape[1] - 1))
    for square, changes in _polynomials(jacobi, points):
        no_root = changes[:, :-1] == changes[:, 1:]
        bound += np.where(no_root, np.minimum(square[:, :-1], square[:, 1:]), 0.0)
    return bound


def _polynomials(jacobi: Jacobi, points: Numbers) -> list[tuple[Numbers, Integers]]:
    """Return, for each i < m, p_i(t)² and the sign changes in p_0(t)…p_i(t)."""
    before, now = np.zeros_like(points), np.ones_like(points)
    scaled = np.zeros(points.shape, dtype=bool)
    changes = np.zeros(points.shape, dtype=np.int64)
    found = [(now * now, changes)]
    for i in range(jacobi.alpha.shape[1] - 1):
        previous = jacobi.beta[:, i - 1, None] * before if i else 0.0
        following = ((points - jacobi.alpha[:, i, None]) * now - previous) / jacobi.beta[:, i, None]
        changes = changes + (np.signbit(following) != np.signbit(now))
        before, now = now, following
        large = np.abs(now) > LARGE
        if large.any():
            before, now, scaled = np.where(large, before / LARGE, before), np.where(large, now / LARGE, now), scaled | large
        size = np.minimum(np.where(scaled, np.abs(now) * LARGE, np.abs(now)), LARGE)
        found.append((size * size, changes))
    return found


def heaviest_window(values: Numbers, weights: Numbers, width: float) -> Numbers:
    """Return an upper bound, for each measure, on its mass in any window [t, (1 + width)² t].

    Chebyshev, Markov and Stieltjes (Szegő, 3.41.1): Σ_{i<k} w_i ≤ μ(-∞, θ_k) and μ(-∞, θ_k] ≤ Σ_{i≤k} w_i,
    so a window holds no more than the Gauss weights inside of it and the one on either side.
    """
    size = values.shape[1]
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(weights, axis=1)], axis=1)
    ends = values * np.where(values > 0, (1 + width) ** 2, 1.0)
    beyond = (values[:, None, :] <= ends[:, :, None]).sum(axis=2)  # the first Ritz value right of a window's end
    upper = np.take_along_axis(sums, np.minimum(beyond + 1, size), axis=1)
    starts = np.maximum(np.arange(size) - 1, 0)
    masses: Numbers = (upper - sums[:, starts]).max(axis=1)
    return np.clip(masses, 0, 1)
