"""What every algorithm answers: bounds on each tuned vector's largest |cos| against the base, on both sides."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.changes import Change
from analysis.krylov import TopVectors

Numbers = NDArray[np.float64]


@dataclass
class Side:
    """The k largest tuned vectors of one side, U (left) or V (right), against all base vectors of that side.

    An intruder dimension is a tuned vector y_j with max_i |⟨y_j, x_i⟩| < ε over **all** base vectors
    (arXiv 2410.21228, algorithm 1). Where an algorithm finds the maximum itself, `low` equals `high`.
    """

    low: Numbers
    """No smaller than this is max |cos|."""
    high: Numbers
    """No larger than this is max |cos|."""
    cluster_low: Numbers
    """The same two bounds on the largest projection onto the base vectors of near-equal singular values."""
    cluster_high: Numbers
    decided: list[str]
    """How: svd, eigen, christoffel, ritz, or fallback where the exact decomposition had to decide."""
    steps: list[int]
    """Lanczos steps, 0 where none were needed."""

    @staticmethod
    def exact(cos: Numbers, cluster: Numbers, how: str) -> Side:
        """Return a side of which every maximum is known."""
        return Side(cos, cos.copy(), cluster, cluster.copy(), [how] * len(cos), [0] * len(cos))

    def part(self, rows: slice) -> Side:
        """Return some of the vectors."""
        return Side(*(getattr(self, field.name)[rows].copy() for field in fields(self)))

    def replace(self, rows: list[int], other: Side) -> None:
        """Take these rows from another answer."""
        for name in ("low", "high", "cluster_low", "cluster_high"):
            getattr(self, name)[rows] = getattr(other, name)
        for at, row in enumerate(rows):
            self.decided[row], self.steps[row] = other.decided[at], max(self.steps[row], other.steps[at])

    def undecided(self, eps: float) -> list[int]:
        """Return the rows whose bounds leave open whether they are intruders."""
        return [int(row) for row in np.flatnonzero((self.low < eps) & (self.high >= eps))]


@dataclass
class Detection:
    """One matrix, one change: its largest tuned vectors and what is known of them."""

    top: TopVectors
    left: Side
    right: Side


class Detector(Protocol):
    """One base matrix, ready to be asked about any change to it."""

    def detect(self, change: Change) -> Detection:
        """Return the k largest singular vectors of W0 + ΔW with their cosines."""


def largest_window(weights: Numbers, s: Numbers, width: float) -> Numbers:
    """Return, for each row of weights, the largest sum over base vectors of near-equal singular values.

    Singular vectors of equal singular values may be turned in their span at will, so only the projection
    onto the span means anything. A cluster is every set of base vectors whose singular values lie within
    [σ, (1 + width) σ]; a chain of small steps is no cluster, or the bulk of a large matrix would be one.
    """
    order = np.argsort(s)
    values = s[order]
    sums = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights[:, order], axis=1)], axis=1)
    ends = np.searchsorted(values, values * (1 + width), side="right")
    largest: Numbers = (sums[:, ends] - sums[:, : len(values)]).max(axis=1)
    return np.clip(largest, 0, 1)


def rank_floor(s: Numbers, shape: tuple[int, int], precision: float) -> Numbers:
    """Return singular values with all that rounding alone could have left raised to one common value.

    The null space is one cluster: its basis is arbitrary. The limit is max(m, n) · eps · σ_1.
    """
    return np.maximum(s, max(shape) * precision * float(s.max(initial=0.0)))
