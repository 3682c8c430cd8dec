"""Random matrices of given spectra, and changes of given size."""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.spectra.changes import Change, Dense, LowRank


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


def of_spectrum(s: Tensor, out: int, inner: int, generator: torch.Generator) -> Tensor:
    """Return a random matrix with these singular values."""
    u, v = orthonormal(out, len(s), generator), orthonormal(inner, len(s), generator)
    return ((u * s.double()) @ v.T).float()


def spectrum(kind: str, n: int, generator: torch.Generator) -> Tensor:
    """Return n singular values: decaying, flat, in clusters of four, or some of them zero."""
    s = torch.linspace(1, 0.2, n, dtype=torch.float64) + 0.02 * torch.rand(n, generator=generator, dtype=torch.float64)
    if kind == "decaying":
        return s * torch.arange(1, n + 1, dtype=torch.float64) ** -0.7
    if kind == "clusters":
        return s[torch.arange(n) // 4 * 4] * (1 + 1e-4 * torch.rand(n, generator=generator, dtype=torch.float64))
    if kind == "equal":
        return s[torch.arange(n) // 4 * 4]
    if kind == "deficient":
        return torch.where(torch.arange(n) < max(2, 2 * n // 3), s, 0.0)
    return s


def change_of(kind: str, size: float, base: Tensor, generator: torch.Generator, rank: int = 2) -> Change:
    """Return a random change, `size` times the base's largest singular value."""
    out, inner = base.shape
    scale = size * float(torch.linalg.matrix_norm(base, 2))
    if kind == "dense":
        delta = torch.randn(out, inner, generator=generator)
        return Dense(delta * scale / torch.linalg.matrix_norm(delta, 2))
    b, a = orthonormal(out, rank, generator).float(), orthonormal(inner, rank, generator).float().T
    return LowRank(b * scale * torch.linspace(1, 0.8, rank), a)
