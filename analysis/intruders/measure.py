"""What the first moments of a measure say of its atoms: the Christoffel function, rigorously over whole intervals.

A unit vector y and a symmetric A with eigenpairs (t_i, x_i) make the measure that has an atom of weight
⟨x_i, y⟩² at each t_i. m Lanczos steps from y give its Jacobi matrix T (diagonal α_0…α_{m-1}, off-diagonal
β_0…β_{m-2}) and so the orthonormal polynomials p_0…p_{m-1}:

    p_0 = 1,   β_i p_{i+1}(t) = (t - α_i) p_i(t) - β_{i-1} p_{i-1}(t)

With K_m(c, t) = Σ_{i<m} p_i(c) p_i(t), ∫ K_m(c, t)² dμ(t) = K_m(c, c). So the mass of an interval I is at most

    K_m(c, c) / min_{t in I} K_m(c, t)²

for any c, and of a single point c no more than the Christoffel function 1 / K_m(c, c) (Szegő, Orthogonal
Polynomials, 3.41).

All functions take many measures at once, one a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Integers = NDArray[np.int64]

POINTS = 8
"""Cells between two neighbouring Ritz values before any is halved: the bound exceeds 1 / K by a few hundredths."""
HALVINGS = 6
"""A cell not settled by then is a 64th of one: the bound is too close to the limit for this number of steps."""
RESOLUTION = 5e-7
"""Error of singular values in float32, as a share of the largest: closer ones are one window, or the proof would
hold of a basis that the reference itself cannot tell from another."""


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
        # torch's, which keeps to the threads torch was given; numpy's waits for threads of its own
        values, vectors = (found.numpy() for found in torch.linalg.eigh(torch.from_numpy(t)))
        return values, vectors[:, 0] ** 2, self.beta[:, -1:] * np.abs(vectors[:, -1])


def heaviest(jacobi: Jacobi, values: Numbers, above: float, width: float, limit: float, blur: float = 0.0) -> Numbers:
    """Return an upper bound, for each measure, on its mass in any window [t, (1 + width)² t] with t ≥ `above`.

    With `width` 0 a window is as narrow as `RESOLUTION`; `blur` widens it by a share of the largest value. The
    result is 1 where no bound below `limit` was found. The windows that start in a cell of a grid lie in one
    interval; intervals whose bound is too large are halved.
    """
    points = np.maximum(_grid(values), above)
    # Windows that start below the smallest Ritz value: with c there, K(c, t) only grows further down.
    left, right = np.concatenate([points[:, :1], points], axis=1), np.concatenate([points, points[:, -1:]], axis=1)
    rows = np.repeat(np.arange(len(points)), left.shape[1])
    left, right = left.ravel(), right.ravel()
    largest = np.maximum(values[:, -1], 0)
    result = np.zeros(len(points))
    for _ in range(HALVINGS):
        ends = _window_end(right, largest[rows], width) + blur * largest[rows]
        bound, at_middle = _interval_mass(jacobi, rows, left, ends, (left + right) / 2)
        small = bound < limit
        np.maximum.at(result, rows[small], bound[small])
        result[rows[at_middle >= limit]] = 1.0  # halving cannot help: the bound of the point itself is too large
        again = ~small & (result[rows] < 1)
        if not again.any():
            return result
        rows, left, right = rows[again], left[again], right[again]
        middle = (left + right) / 2
        rows, left, right = np.tile(rows, 2), np.concatenate([left, middle]), np.concatenate([middle, right])
    result[rows] = 1.0
    return result


def _window_end(start: Numbers, largest: Numbers, width: float) -> Numbers:
    """Return where a window of squared singular values ends that starts here."""
    end: Numbers = (np.sqrt(np.maximum(start, 0)) * (1 + width) + RESOLUTION * np.sqrt(largest)) ** 2
    return end


def together(values: Numbers, weights: Numbers, width: float) -> Numbers:
    """Return, for each measure, the largest sum of weights of Ritz values in one window, as `heaviest` has them."""
    largest = np.maximum(values[:, -1:], 0)
    ends = _window_end(values, largest, width)
    within = (values[:, None, :] >= values[:, :, None]) & (values[:, None, :] <= ends[:, :, None])
    sums: Numbers = np.where(within, weights[:, None, :], 0.0).sum(axis=2).max(axis=1)
    return np.clip(sums, 0, 1)


def _grid(values: Numbers) -> Numbers:
    """Return the Ritz values with `POINTS` - 1 points between each two."""
    steps = np.arange(POINTS) / POINTS
    inner = values[:, :-1, None] + (values[:, 1:] - values[:, :-1])[:, :, None] * steps
    return np.concatenate([inner.reshape(len(values), -1), values[:, -1:]], axis=1)


def _interval_mass(
    jacobi: Jacobi, rows: Integers, left: Numbers, right: Numbers, centre: Numbers
) -> tuple[Numbers, Numbers]:
    """Return upper bounds on the mass of intervals [left, right], and on that of the point at the centre.

    The zeros in t of (t - c) K_m(c, t) are real and one of them, c, lies between two neighbouring zeros of
    p_{m-1}, which part them. So where p_{m-1} has no zero in the interval K_m(c, t) has none either; with
    real zeros only, log|K_m(c, t)| is concave there, and smallest at an end. Sturm: the sign changes in
    p_0(t)…p_{m-1}(t) count the zeros of p_{m-1} above t. The best bound over all numbers of steps is kept.
    """
    t = np.stack([centre, left, right])
    before, now = np.zeros_like(t), np.ones_like(t)
    kernel, changes = np.ones_like(t), np.zeros(t.shape, dtype=np.int64)
    bound = np.ones(len(rows))
    alpha, beta = jacobi.alpha[rows], jacobi.beta[rows]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what overflows is not finite, and not used
        for i in range(alpha.shape[1] - 1):
            previous = beta[:, i - 1] * before if i else 0.0
            before, now = now, ((t - alpha[:, i]) * now - previous) / beta[:, i]
            changes += np.signbit(now) != np.signbit(before)
            kernel = kernel + now[0] * now
            least = np.minimum(kernel[1], kernel[2])
            mass = kernel[0] / least / least
            valid = (changes[1] == changes[2]) & (least > 0) & np.isfinite(mass)
            bound = np.where(valid, np.minimum(bound, mass), bound)
        point = 1 / kernel[0]
    return bound, np.where(np.isfinite(point), point, 0.0)


def gaps(values: Numbers) -> Numbers:
    """Return each Ritz value's distance to its nearest neighbour."""
    steps = np.diff(values, axis=1, prepend=-np.inf, append=np.inf)
    return np.minimum(steps[:, :-1], steps[:, 1:])


def resolution(values: Numbers) -> Numbers:
    """Return the distance of eigenvalues σ² within which decompositions in float32 do not tell base vectors apart."""
    positive = np.maximum(values, 0)
    apart: Numbers = 2 * RESOLUTION * np.sqrt(positive * positive[:, -1:])
    return apart
