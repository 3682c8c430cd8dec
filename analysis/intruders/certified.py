"""``algorithm=certified``: no decomposition of the base; Lanczos from each tuned vector, and a proof either way.

The weights ⟨x_i, y⟩² of all base left vectors x_i are the atoms of the measure of y under A = W0 W0ᵀ.

- The Christoffel function bounds every atom from above: where it stays below ε², y is an intruder.
- A converged Ritz vector is an eigenvector; where its weight reaches ε², y is none.

Both sides advance together: each pass over W0 serves the left vectors of one half-step and the right
vectors of the other. Vectors are rows, each kept orthogonal to all before: in single precision first, with
bounds wide enough for its rounding, and in double precision where these leave a vector open.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.changes import Change
from analysis.intruders.detection import Detection, Side
from analysis.intruders.proofs import CLEAR_ANGLE, DOUBLE, MAX_STEPS, SINGLE, Precision, Proof
from analysis.intruders.reference import Reference
from analysis.krylov import SMALL, Product, TopVectors, top_singular

OWED = 0.5
"""A tuned vector that owes less than this share of its σ to the change may be one of the base's."""
CHECKS = frozenset([*range(3, 21, 2), *range(21, 36, 3), *range(36, 60, 5), *range(60, MAX_STEPS + 1, 10)])
"""Steps after which to look for proofs: a look costs as much as a step of a small matrix."""


class Certified:
    """A base matrix, and no more than its own largest vectors."""

    name = "certified"

    def __init__(self, base: Float[Tensor, "out in"], k: int, eps: float, width: float) -> None:
        self.base, self.k, self.eps, self.width = base, k, eps, width
        self.exact = Reference(base, k, width)
        self._largest: TopVectors | None = None

    def detect(self, change: Change) -> Detection:
        """Return the k largest tuned vectors with a proof for each, or the exact cosines where none was found."""
        top = top_singular(Product.of(self.base, change), self.k, self._largest)
        self._find_alike(top, change)
        left, right = self.sides(top.u, top.v)
        return Detection(top, left, right)

    @property
    def largest(self) -> TopVectors:
        """Return some of the base's largest singular vectors: most tuned vectors that are no intruders are near one.

        An angle of a hundredth is enough: few cosines lie that close to ε, and those are proved another way.
        """
        if self._largest is None:
            self._largest = top_singular(Product(self.base), self.k, angle=CLEAR_ANGLE)
        return self._largest

    def _find_alike(self, top: TopVectors, change: Change) -> None:
        """Have as many of the base's largest vectors as tuned ones owe little to the change, and may be near them.

        Those are 2 of 10 where a change has put 8 directions of its own on top, and come in a third of the time.
        A guess that is wrong costs time and no accuracy: what is near no vector found here is proved without.
        """
        alike = change.transposed_times(top.u).norm(dim=0) < OWED * top.s
        count = self.k if min(self.base.shape) <= SMALL else int(alike.sum())
        if self._largest is None or len(self._largest.s) < count:
            near = TopVectors(top.u[:, alike], top.s[alike], top.v[:, alike], top.error[alike])
            self._largest = top_singular(Product(self.base), count, near, CLEAR_ANGLE) if count else near

    def sides(self, u: Float[Tensor, "out a"], v: Float[Tensor, "in b"]) -> tuple[Side, Side]:
        """Return what holds of left and of right vectors."""
        left, right = self._beside(self.largest.u, u), self._beside(self.largest.v, v)
        for precision in (SINGLE, DOUBLE):
            rows = [side.undecided(self.eps) for side in (left, right)]
            if rows[0] or rows[1]:
                chosen = u[:, rows[0]].T.to(precision.dtype), v[:, rows[1]].T.to(precision.dtype)
                proofs = prove(self.base.to(precision.dtype), *chosen, self.eps, self.width, precision)
                for side, open_rows, proof in zip((left, right), rows, proofs, strict=True):
                    side.replace(open_rows, proof.side)
        self.fall_back(left, right, u, v)
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

    def fall_back(self, left: Side, right: Side, u: Float[Tensor, "out a"], v: Float[Tensor, "in b"]) -> None:
        """Have the exact decomposition decide what is still open."""
        for side, vectors, which in ((left, u, "u"), (right, v, "v")):
            if rows := side.undecided(self.eps):
                base = getattr(self.exact.factors, which)
                side.replace(rows, self.exact.side(base, vectors[:, rows], "fallback"))


def prove(
    w: Float[Tensor, "out in"],
    u: Float[Tensor, "a out"],
    v: Float[Tensor, "b in"],
    eps: float,
    width: float,
    precision: Precision,
) -> tuple[Proof, Proof]:
    """Run Lanczos under W0 W0ᵀ from rows u and under W0ᵀW0 from rows v, until all are decided or the
    precision's steps are taken.
    """
    floor = _Floor(w)
    left = Proof(u, eps, width, floor if w.shape[0] > w.shape[1] else None, precision)
    right = Proof(v, eps, width, floor if w.shape[0] < w.shape[1] else None, precision)
    half = right.lanczos.rows @ w.T
    for step in range(1, min(precision.steps, max(w.shape)) + 1):
        from_left = len(left.lanczos.rows)
        product = torch.cat([left.lanczos.rows, half]) @ w
        right.advance(product[from_left:], step in CHECKS)
        product = torch.cat([product[:from_left], right.lanczos.rows]) @ w.T
        left.advance(product[:from_left], step in CHECKS)
        half = product[from_left:]
        if not len(left.open) and not len(right.open):
            break
    left.reopen_degenerate(lambda rows: (rows @ w) @ w.T, MAX_STEPS)
    right.reopen_degenerate(lambda rows: (rows @ w.T) @ w, MAX_STEPS)
    return left, right


class _Floor:
    """A lower bound on the nonzero eigenvalues of W0 W0ᵀ for a matrix that is not square, computed when asked for.

    Below it only the atom at zero can lie, which belongs to no base vector. Zero where the matrix has no
    full rank, or none that rounding lets one see: then nothing can be said.
    """

    def __init__(self, w: Float[Tensor, "out in"]) -> None:
        self.w = w
        self.value: float | None = None

    def __call__(self) -> float:
        """Return the largest of a few shifts τ for which the smaller Gram matrix less τ is positive definite."""
        if self.value is None:
            w = self.w if self.w.shape[0] < self.w.shape[1] else self.w.T
            gram = w @ w.T
            scale, identity = float(gram.diagonal().max()), torch.eye(len(gram), dtype=w.dtype, device=w.device)
            smallest = 8 if w.dtype == torch.float64 else 4  # what rounding in the Gram matrix leaves to be seen
            shifts = (10.0**-power * scale for power in range(1, smallest + 1))
            self.value = next((shift for shift in shifts if _positive(gram - shift * identity)), 0.0)
        return self.value


def _positive(matrix: Float[Tensor, "n n"]) -> bool:
    return not bool(torch.linalg.cholesky_ex(matrix).info)
