"""One symmetric eigendecomposition per base matrix, its error measured, kept on disk for every run of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.intruders.bounds import decomposition_errors
from harness.storage.files import write_bytes

BANDS = 4
"""Row blocks of the Gram matrix, each multiplied up to the diagonal only: 5/8 of the whole product."""


@dataclass(frozen=True)
class BaseVectors:
    """The eigendecomposition of the smaller Gram matrix A of a base."""

    values: Float[Tensor, " n"]
    """Eigenvalues, σ², rising."""
    vectors: Float[Tensor, "n n"]
    """As rows."""
    error: float
    """How far A is from what these make, in the spectral norm: :func:`decomposition_errors`."""
    turned: float
    """How far the vectors are from orthonormal, ‖V Vᵀ - I‖."""


def decompose(near: Float[Tensor, "n m"]) -> BaseVectors:
    """Return the eigendecomposition of W0 W0ᵀ in W0's own precision, and how good it turned out in double."""
    values, vectors = torch.linalg.eigh(_lower_gram(near))
    # LAPACK's columns are rows as they lie; one layout, whether just made or read back, for sums to round alike.
    values, vectors = values.clamp_min(0), vectors.T.contiguous()
    return BaseVectors(values, vectors, *decomposition_errors(near, values, vectors))


def _lower_gram(near: Float[Tensor, "n m"]) -> Float[Tensor, "n n"]:
    """Return W0 W0ᵀ up to its diagonal blocks, which is all that eigh reads."""
    gram = near.new_zeros(len(near), len(near))
    edges = [len(near) * band // BANDS for band in range(BANDS + 1)]
    for start, end in pairwise(edges):
        gram[start:end, :end] = near[start:end] @ near[:end].T
    return gram


def base_vectors(near: Float[Tensor, "n m"], cache: Path | None) -> BaseVectors:
    """Return the decomposition from the cache, or make it and keep it there."""
    if cache is None:
        return decompose(near)
    path = cache / f"{hash_of(near)}.safetensors"
    stored = _read(path)
    if stored is None:
        stored = decompose(near)
        _write(path, stored)
    return BaseVectors(stored.values.to(near.device), stored.vectors.to(near.device), stored.error, stored.turned)


def hash_of(*tensors: Tensor) -> str:
    """Return the 128-bit XXH3 hash of tensors' shapes and numbers: of 3 MB in 0.3 ms, where SHA-256 takes 3."""
    found = xxhash.xxh3_128()
    for tensor in tensors:
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().data)
    return found.hexdigest()


def _read(path: Path) -> BaseVectors | None:
    """Return what is kept under a hash, None where nothing is, or not all that was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            values, vectors, errors = (file.get_tensor(name) for name in ("values", "vectors", "errors"))
            whole = (file.metadata() or {}).get("hash") == hash_of(values, vectors, errors)
    except (OSError, SafetensorError):
        return None
    return BaseVectors(values, vectors, *errors.tolist()) if whole else None


def _write(path: Path, found: BaseVectors) -> None:
    from safetensors.torch import save

    errors = torch.tensor([found.error, found.turned], dtype=torch.float64)
    tensors = {"values": found.values.cpu(), "vectors": found.vectors.cpu(), "errors": errors}
    write_bytes(path, save(tensors, {"hash": hash_of(*tensors.values())}), flush=False)
