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
    vectors = found
    values, exact = torch.linalg.eigh(dense(m))
    assert (m.times(vectors) * vectors).sum(1).numpy() == pytest.approx(values.flip(0)[:K].numpy(), rel=1e-8)
    # The eigenvectors of the K largest values and no others: equal values may turn theirs among themselves.
    tied = values > values[-K] * (1 - 1e-9)
    assert (vectors @ exact[:, tied]).square().sum(1).numpy() == pytest.approx(1.0, abs=1e-9)
    assert (vectors @ vectors.T).numpy() == pytest.approx(torch.eye(K).numpy(), abs=1e-12)


@pytest.mark.parametrize("kind", ["flat", "decaying", "clusters"])
def test_eigenvalues_above_a_number_are_counted(kind):
    m = matrix(kind, 0.3)
    values = torch.linalg.eigvalsh(dense(m))
    for at in (-200, -50, -7, -1):
        t = float(values[at] + values[at - 1]) / 2 if at > -200 else float(values[0]) - 1
        assert m.above(t) == -at


def test_what_missed_an_eigenvalue_is_given_up(monkeypatch):
    found = []
    monkeypatch.setattr(DiagonalPlus, "above", lambda m, t: found.append(t) or K + 1)
    assert top_of_diagonal_plus(matrix("decaying", 0.3), K, ANGLE, 1e-14) is None
    values = torch.linalg.eigvalsh(dense(matrix("decaying", 0.3))).flip(0)
    assert values[K - 1] > found[0] > values[K]  # asked where exactly K lie above


def test_what_does_not_converge_is_given_up(monkeypatch):
    monkeypatch.setattr(davidson, "CORRECTIONS", 1)
    assert top_of_diagonal_plus(matrix("flat", 0.3), K, 1e-12, 1e-14) is None


def test_the_space_to_begin_with_is_what_is_said():
    m = matrix("flat", 0.3)
    assert len(davidson._Space(m, davidson._kept(K)).basis) == beginning(K, len(m.f))
