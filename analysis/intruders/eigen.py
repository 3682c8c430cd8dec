"""``algorithm=eigen``: one symmetric eigendecomposition per base matrix, kept on disk for every run of a sweep.

With A = W0 W0ᵀ = X Λ Xᵀ on the shorter side, M = W Wᵀ of a low-rank change is, in the coordinates of X,
a diagonal plus rank 2r: a product with M costs n · 2r instead of 2 · n · m multiplications.

The decomposition is in float32, and of a Gram matrix, so base vectors are known up to turns among those
whose σ² are closer than rounding. Wherever that could change the answer, a proof or the reference gives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from analysis.changes import Change, LowRank
from analysis.davidson import DiagonalPlus, beginning, top_of_diagonal_plus
from analysis.intruders.certified import Certified
from analysis.intruders.detection import Detection, Numbers, Side, largest_window, rank_floor
from analysis.krylov import ANGLE, Product, TopVectors, top_singular
from harness.storage.files import write_bytes

ROUNDING = 1e-6
"""Error of the eigendecomposition in float32, as a share of the largest eigenvalue."""
RESOLVED = 1e-5
"""Eigenvalues closer than this share of the largest are not told apart: their vectors may be turned by over a tenth."""
LOW = 1e-4
"""Below this share of the largest eigenvalue, σ is too inexact to reach the longer side's vectors by W0ᵀ x / σ."""

PROVED_FROM = 1024
"""The smaller side from which a proof for what is left open is quicker; at 576: 150 to 250 ms, an SVD 34 to 90."""


@dataclass(frozen=True)
class BaseVectors:
    """The eigendecomposition of the smaller Gram matrix of a base."""

    values: Float[Tensor, " n"]
    """Eigenvalues, σ², rising."""
    vectors: Float[Tensor, "n n"]
    """As rows."""


def decompose(base: Float[Tensor, "out in"]) -> BaseVectors:
    """Return the eigendecomposition of W0 W0ᵀ, or of W0ᵀW0 where that is smaller."""
    gram = base.T @ base if base.shape[0] > base.shape[1] else base @ base.T
    values, vectors = torch.linalg.eigh(gram)
    # LAPACK's columns are rows as they lie; one layout, whether just made or read back, for sums to round alike.
    return BaseVectors(values.clamp_min(0), vectors.T.contiguous())


def hash_of(*tensors: Tensor) -> str:
    """Return the 128-bit XXH3 hash of tensors' shapes and numbers: of 3 MB in 0.3 ms, where SHA-256 takes 3."""
    found = xxhash.xxh3_128()
    for tensor in tensors:
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().data)
    return found.hexdigest()


def base_vectors(base: Float[Tensor, "out in"], cache: Path | None) -> BaseVectors:
    """Return the decomposition from the cache, or make it and keep it there."""
    if cache is None:
        return decompose(base)
    path = cache / f"{hash_of(base)}.safetensors"
    stored = _read(path)
    if stored is None:
        stored = decompose(base)
        _write(path, stored)
    return BaseVectors(stored.values.to(base.device), stored.vectors.to(base.device))


def _read(path: Path) -> BaseVectors | None:
    """Return what is kept under a hash, None where nothing is, or not all that was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            found = BaseVectors(file.get_tensor("values"), file.get_tensor("vectors"))
            whole = (file.metadata() or {}).get("hash") == hash_of(found.values, found.vectors)
    except (OSError, SafetensorError):
        return None
    return found if whole else None


def _write(path: Path, found: BaseVectors) -> None:
    from safetensors.torch import save

    tensors = {"values": found.values.cpu(), "vectors": found.vectors.cpu()}
    write_bytes(path, save(tensors, {"hash": hash_of(*tensors.values())}), flush=False)


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
        weights, rest = self._weights(near, far)
        sides = self._sides(weights, rest, top.error.repeat(2).double().cpu().numpy())
        short, long = sides.part(slice(0, near.shape[1])), sides.part(slice(near.shape[1], None))
        left, right = (long, short) if self.tall else (short, long)
        self._settle(left, right, top)
        return Detection(top, left, right)

    def _top(self, change: Change) -> TopVectors:
        product = Product.of(self.base, change)
        found = self._top_in_coordinates(change) if isinstance(change, LowRank) else None
        return top_singular(product, self.k) if found is None else product.triplets(*found)

    def _top_in_coordinates(self, change: LowRank) -> tuple[Tensor, Tensor] | None:
        """Return the k largest eigenvectors of M = Λ + F Gᵀ + G Fᵀ, back in the coordinates of the matrix.

        With F = B, H = A (on the other side Aᵀ and Bᵀ): W Wᵀ = W0 W0ᵀ + F Gᵀ + G Fᵀ, G = W0 Hᵀ + F H Hᵀ / 2.
        """
        work, f, h = (self.base.T, change.a.T, change.b.T) if self.tall else (self.base, change.b, change.a)
        vectors, values = self.known.vectors, self.known.values
        if beginning(self.k, f.shape[1]) > len(values) // 2:
            return None
        g_rows = h @ work.T + (h @ h.T / 2) @ f.T
        f_rows, g_rows = (torch.cat([f.T, g_rows]) @ vectors.T).double().split(f.shape[1])
        found = top_of_diagonal_plus(DiagonalPlus(values.double(), f_rows, g_rows), self.k, ANGLE, ROUNDING)
        return None if found is None else (found[0].to(vectors) @ vectors, found[1].to(vectors))

    def _weights(self, near: Float[Tensor, "n k"], far: Float[Tensor, "m k"]) -> tuple[Numbers, Numbers]:
        """Return the squared cosines of the shorter side's vectors, then of the longer side's, and what these lack.

        The shorter side's are its coordinates; the longer side's ⟨x_i, W0 z⟩ / σ_i for a vector z. What small σ
        leave is counted as one.
        """
        through = far.T @ (self.base if self.tall else self.base.T)
        rows = torch.cat([near.T, through]) @ self.known.vectors.T
        weights = rows.double().square().cpu().numpy()
        squares = self.known.values.double().cpu().numpy()
        high, k = squares > LOW * squares[-1], near.shape[1]
        weights[k:] = np.where(high, weights[k:] / np.where(high, squares, 1.0), 0.0)
        rest = np.zeros(len(weights))
        if not high.all():
            rest[k:] = np.clip(1 - weights[k:].sum(axis=1), 0, 1)
        return weights, rest

    def _sides(self, weights: Numbers, rest: Numbers, error: Numbers) -> Side:
        """Return bounds on max |cos| that hold however unresolved base vectors are turned among themselves."""
        values = self.known.values.double().cpu().numpy()
        s = rank_floor(np.sqrt(values), (1, 1), ROUNDING**0.5)
        cluster = np.sqrt(np.maximum(largest_window(weights, s, self.width), rest))
        low, high = _bounds(weights, values, error)
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
        """Have what rounding in the decomposition leaves open proved, or decomposed where that is quicker."""
        if min(self.base.shape) < PROVED_FROM:
            self.certified.fall_back(left, right, top.u, top.v)
            return
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
