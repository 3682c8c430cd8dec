"""``algorithm=eigen``: one symmetric eigendecomposition per base matrix, kept on disk for every run of a sweep.

With A = W0 W0ᵀ = X Λ Xᵀ on the shorter side, M = W Wᵀ of a low-rank change is, in the coordinates of X,
a diagonal plus rank 2r: a product with M costs n · 2r instead of 2 · n · m multiplications.

The decomposition is in float32, and of a Gram matrix, so base vectors are known up to turns among those
whose σ² are closer than rounding. Wherever that could change the answer, `certified` gives it instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.changes import Change, Dense, LowRank
from analysis.intruders.certified import Certified
from analysis.intruders.detection import Detection, Numbers, Side, largest_window, rank_floor
from analysis.krylov import SMALL, Product, TopVectors, random_rows, top_eigenvectors, top_singular
from harness.files import write_bytes

ROUNDING = 1e-6
"""Error of the eigendecomposition in float32, as a share of the largest eigenvalue."""
RESOLVED = 1e-5
"""Eigenvalues closer than this share of the largest are not told apart: their vectors may be turned by over a tenth."""
LOW = 1e-4
"""Below this share of the largest eigenvalue, σ is too inexact to reach the longer side's vectors by W0ᵀ x / σ."""


@dataclass(frozen=True)
class BaseVectors:
    """The eigendecomposition of the smaller Gram matrix of a base."""

    values: Float[Tensor, " n"]
    """Eigenvalues, σ², rising."""
    vectors: Float[Tensor, "n n"]
    """As columns."""


def decompose(base: Float[Tensor, "out in"]) -> BaseVectors:
    """Return the eigendecomposition of W0 W0ᵀ, or of W0ᵀW0 where that is smaller."""
    gram = base.T @ base if base.shape[0] > base.shape[1] else base @ base.T
    values, vectors = torch.linalg.eigh(gram)
    # One layout, whether just made or read back: sums in another order would round otherwise.
    return BaseVectors(values.clamp_min(0), vectors.contiguous())


def weight_hash(base: Float[Tensor, "out in"]) -> str:
    """Return the SHA-256 of a matrix's shape and numbers."""
    numbers = base.detach().cpu().contiguous().numpy()
    found = hashlib.sha256(f"{tuple(base.shape)} {base.dtype}".encode())
    found.update(numbers.data)
    return found.hexdigest()


def base_vectors(base: Float[Tensor, "out in"], cache: Path | None) -> BaseVectors:
    """Return the decomposition from the cache, or make it and keep it there."""
    if cache is None:
        return decompose(base)
    path = cache / f"{weight_hash(base)}.safetensors"
    stored = _read(path, min(base.shape))
    if stored is None:
        stored = decompose(base)
        _write(path, stored)
    return BaseVectors(stored.values.to(base.device), stored.vectors.to(base.device))


def _read(path: Path, side: int) -> BaseVectors | None:
    """Return what is kept under a hash, None where nothing is, or nothing whole."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
        found = BaseVectors(stored["values"], stored["vectors"])
    except (OSError, SafetensorError, KeyError):
        return None
    return found if found.vectors.shape == (side, side) else None


def _write(path: Path, found: BaseVectors) -> None:
    from safetensors.torch import save

    tensors = {"values": found.values.cpu(), "vectors": found.vectors.cpu().contiguous()}
    write_bytes(path, save(tensors))


class Eigen:
    """A base matrix with its eigendecomposition."""

    name = "eigen"

    def __init__(self, base: Float[Tensor, "out in"], k: int, eps: float, width: float, cache: Path | None) -> None:
        self.base, self.k, self.eps, self.width = base, k, eps, width
        self.tall = base.shape[0] > base.shape[1]
        self.known = base_vectors(base, cache)
        self.certified = Certified(base, k, eps, width)

    def detect(self, change: Change) -> Detection:
        """Return the k largest tuned vectors with their cosines against every base vector."""
        top = self._top(change)
        near, far = (top.v, top.u) if self.tall else (top.u, top.v)
        short, long = self._near(near, top.error), self._far(far, top.error)
        left, right = (long, short) if self.tall else (short, long)
        self._settle(left, right, top)
        return Detection(top, left, right)

    def _top(self, change: Change) -> TopVectors:
        product = Product.of(self.base, change)
        if isinstance(change, Dense) or min(self.base.shape) <= SMALL:
            return top_singular(product, self.k)
        found = self._top_in_coordinates(change)
        return top_singular(product, self.k) if found is None else product.triplets(*found)

    def _top_in_coordinates(self, change: LowRank) -> tuple[Tensor, Tensor] | None:
        """Return the k largest eigenvectors of M = Λ + F Gᵀ + G Fᵀ, back in the coordinates of the matrix.

        With F = B, H = A (on the other side Aᵀ and Bᵀ): W Wᵀ = W0 W0ᵀ + F Gᵀ + G Fᵀ, G = W0 Hᵀ + F H Hᵀ / 2.
        """
        work, f, h = (self.base.T, change.a.T, change.b.T) if self.tall else (self.base, change.b, change.a)
        vectors, values = self.known.vectors, self.known.values
        g = work @ h.T + f @ (h @ h.T) / 2
        f_rows, g_rows = (vectors.T @ torch.cat([f, g], 1)).T.contiguous().split(f.shape[1])

        def squared(rows: Tensor) -> Tensor:
            return rows * values + (rows @ g_rows.T) @ f_rows + (rows @ f_rows.T) @ g_rows

        found = top_eigenvectors(squared, self._start(), self.k)
        return None if found is None else (found[0] @ vectors.T, found[1])

    def _start(self) -> Float[Tensor, "b n"]:
        """Return orthonormal rows to begin with, W0's largest vectors and a third as many random ones."""
        rows = random_rows(self.k, len(self.known.values), self.known.values)
        random = rows[: len(rows) // 3]
        largest = torch.zeros_like(rows[len(random) :])
        columns = torch.arange(len(largest), device=rows.device)
        largest[columns, -1 - columns] = 1
        return torch.linalg.qr(torch.cat([random, largest]).T)[0].T.contiguous()

    def _near(self, vectors: Float[Tensor, "n k"], error: Float[Tensor, " k"]) -> Side:
        """Return the shorter side's cosines, which are the vectors' coordinates."""
        weights = (vectors.T @ self.known.vectors).double().square().cpu().numpy()
        return self._side(weights, np.zeros(len(weights)), error)

    def _far(self, vectors: Float[Tensor, "m k"], error: Float[Tensor, " k"]) -> Side:
        """Return the longer side's cosines, ⟨x_i, W0 z⟩ / σ_i for a vector z; what small σ leave is counted as one."""
        rows = vectors.T @ self.base.T if self.base.shape[1] == len(vectors) else vectors.T @ self.base
        s = self.known.values.double().sqrt().cpu().numpy()
        projected = (rows @ self.known.vectors).double().cpu().numpy()
        high = s**2 > LOW * float(s[-1]) ** 2
        weights = np.where(high, (projected / np.where(high, s, 1.0)) ** 2, 0.0)
        rest = np.zeros(len(weights)) if high.all() else np.clip(1 - weights.sum(axis=1), 0, 1)
        return self._side(weights, rest, error)

    def _side(self, weights: Numbers, rest: Numbers, error: Float[Tensor, " k"]) -> Side:
        """Return bounds on max |cos| that hold however unresolved base vectors are turned among themselves."""
        values = self.known.values.double().cpu().numpy()
        s = rank_floor(np.sqrt(values), (1, 1), ROUNDING**0.5)
        cluster = np.sqrt(np.maximum(largest_window(weights, s, self.width), rest))
        low, high = _bounds(weights, values, error.double().cpu().numpy())
        high = np.maximum(high, np.sqrt(rest))
        best = np.sqrt(weights.max(axis=1))
        sure = ((low < self.eps) & (high < self.eps)) | (low >= self.eps)
        return Side(
            np.where(sure, best, low),
            np.where(sure, best, high),
            cluster.copy(),
            cluster,
            ["eigen"] * len(best),
            [0] * len(best),
        )

    def _settle(self, left: Side, right: Side, top: TopVectors) -> None:
        """Have `certified` decide what rounding in the decomposition leaves open."""
        rows = [side.undecided(self.eps) for side in (left, right)]
        if rows[0] or rows[1]:
            answers = self.certified.sides(top.u[:, rows[0]], top.v[:, rows[1]])
            for side, open_rows, answer in zip((left, right), rows, answers, strict=True):
                side.replace(open_rows, answer)


def _bounds(weights: Numbers, values: Numbers, error: Numbers) -> tuple[Numbers, Numbers]:
    """Return bounds on the true max |cos| from inexact ones.

    Within `RESOLVED` of an eigenvalue the d base vectors may be turned at will: the best of them carries
    between 1/d and all of the weight there. Beyond it they are turned by no more than `ROUNDING` over the gap.
    """
    scale = float(values[-1])
    starts = np.searchsorted(values, values - RESOLVED * scale, side="left")
    ends = np.searchsorted(values, values + RESOLVED * scale, side="right")
    sums = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights, axis=1)], axis=1)
    together = sums[:, ends] - sums[:, starts]
    best = weights.argmax(axis=1)
    steps = np.diff(values, prepend=-np.inf, append=np.inf)
    gap = np.minimum(steps[:-1], steps[1:])[best]
    crowd = (ends - starts)[best]
    slack = error + np.where(crowd > 1, 0.0, ROUNDING * scale / np.maximum(gap, RESOLVED * scale))
    low = np.sqrt(weights.max(axis=1) / crowd) - slack
    high = np.sqrt(np.clip(together, 0, 1).max(axis=1)) + slack
    return np.clip(low, 0, 1), np.clip(high, 0, 1)
