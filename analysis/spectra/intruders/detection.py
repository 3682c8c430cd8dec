"""What every algorithm answers: each tuned vector's largest |cos| against the base, and how far that can be off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.changes import Change
from analysis.spectra.intruders.bounds import Numbers
from analysis.spectra.singular import TopVectors


@dataclass
class Side:
    """The k largest tuned vectors of one side, U (left) or V (right), against all base vectors of that side.

    An intruder dimension is a tuned vector y_j with max_i |⟨y_j, x_i⟩| < ε over **all** base vectors
    (arXiv 2410.21228, algorithm 1).
    """

    cos: Numbers
    """max |cos|, as computed."""
    low: Numbers
    """No smaller than this is max |cos|."""
    high: Numbers
    """No larger than this is max |cos|."""
    cluster: Numbers
    """The largest projection onto the base vectors of near-equal singular values, as computed."""
    decided: list[str]
    """How: svd, eigen, or double where the bounds of eigen left it open and double precision decided."""

    @property
    def bound(self) -> Numbers:
        """Return how far `cos` can be off."""
        return np.maximum(self.high - self.cos, self.cos - self.low)

    def undecided(self, eps: float) -> list[int]:
        """Return the rows whose bounds leave open whether they are intruders."""
        return [int(row) for row in np.flatnonzero((self.low < eps) & (self.high >= eps))]

    def replace(self, rows: list[int], other: Side, how: str) -> None:
        """Take these rows from another answer."""
        for name in ("cos", "low", "high", "cluster"):
            getattr(self, name)[rows] = getattr(other, name)[rows]
        for row in rows:
            self.decided[row] = how


@dataclass
class Detection:
    """One matrix, one change: its largest tuned vectors and what is known of them."""

    top: TopVectors
    left: Side
    right: Side


class Detector(Protocol):
    """One base matrix, ready to be asked about any change to it."""

    @property
    def sigma(self) -> Float[Tensor, " n"]:
        """Return the base's singular values, rising, in double precision on the CPU."""

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
