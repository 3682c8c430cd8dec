"""The largest eigenvectors of a diagonal plus a few directions, against a dense decomposition."""

from __future__ import annotations

import pytest
import torch
from matrices import orthonormal, spectrum

from analysis import davidson
from analysis.davidson import DiagonalPlus, beginning, top_of_diagonal_plus
from analysis.krylov import ANGLE

K = 6


def matrix(kind: str, size: float, n: int = 200, rank: int = 4) -> DiagonalPlus:
    generator = torch.Generator().manual_seed(n + rank)
    values = spectrum(kind, n, generator).square().sort().values
    f, g = (orthonormal(n, rank, generator).T * (size * float(values[-1])) ** 0.5 for _ in range(2))
    return DiagonalPlus(values, f, g)


def dense(m: DiagonalPlus) -> torch.Tensor:
    return torch.diag(m.values) + m.f.T @ m.g + m.g.T @ m.f


@pytest.mark.parametrize("size", [0.01, 0.3, 30.0])
@pytest.mark.parametrize("kind", ["flat", "decaying", "clusters", "equal", "deficient"])
def test_the_largest_eigenpairs_are_those_of_the_dense_matrix(kind, size):
    m = matrix(kind, size)
    found = top_of_diagonal_plus(m, K, ANGLE, 1e-14)
    assert found is not None
    vectors, error = found
    values, exact = torch.linalg.eigh(dense(m))
    assert (m.times(vectors) * vectors).sum(1).numpy() == pytest.approx(values.flip(0)[:K].numpy(), rel=1e-8)
    # The eigenvectors of the K largest values and no others: equal values may turn theirs among themselves.
    tied = values > values[-K] * (1 - 1e-9)
    assert (vectors @ exact[:, tied]).square().sum(1).numpy() == pytest.approx(1.0, abs=1e-9)
    assert (vectors @ vectors.T).numpy() == pytest.approx(torch.eye(K).numpy(), abs=1e-12)
    assert error.shape == (K,) and (error >= 0).all()


def test_the_error_it_tells_bounds_the_angle():
    m = matrix("decaying", 0.3)
    vectors, error = top_of_diagonal_plus(m, K, 1e-3, 1e-14)
    exact = torch.linalg.eigh(dense(m)).eigenvectors.flip(1)[:, :K]
    sines = (1 - (vectors * exact.T).sum(1).square()).clamp_min(0).sqrt()
    assert (sines <= error + 1e-7).all()
    assert float(sines.max()) > 1e-9  # the angle asked for was no tighter


def test_what_does_not_converge_is_given_up(monkeypatch):
    monkeypatch.setattr(davidson, "CORRECTIONS", 1)
    assert top_of_diagonal_plus(matrix("flat", 0.3), K, 1e-12, 1e-14) is None


def test_the_space_to_begin_with_is_what_is_said():
    m = matrix("flat", 0.3)
    assert len(davidson._Space(m, davidson._kept(K)).basis) == beginning(K, len(m.f))
