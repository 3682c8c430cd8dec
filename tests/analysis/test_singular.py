"""The largest singular vectors and eigenvectors, against dense decompositions."""

from __future__ import annotations

import pytest
import torch
from matrices import of_spectrum, orthonormal, spectrum

from analysis.spectra import singular
from analysis.spectra.singular import DiagonalPlus, top_left

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
    vectors = m.top(K)
    assert vectors is not None
    values, exact = torch.linalg.eigh(dense(m))
    assert ((vectors @ dense(m)) * vectors).sum(1).numpy() == pytest.approx(values.flip(0)[:K].numpy(), rel=1e-8)
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
    assert matrix("decaying", 0.3).top(K) is None
    values = torch.linalg.eigvalsh(dense(matrix("decaying", 0.3))).flip(0)
    assert values[K - 1] > found[0] > values[K]  # asked where exactly K lie above


@pytest.mark.parametrize("shape", [(300, 300), (200, 320), (40, 90)])
@pytest.mark.parametrize("kind", ["flat", "decaying", "clusters"])
def test_left_singular_vectors_are_those_of_the_dense_decomposition(kind, shape):
    generator = torch.Generator().manual_seed(0)
    w = of_spectrum(spectrum(kind, shape[0], generator), *shape, generator)
    u, s, _ = torch.linalg.svd(w.double(), full_matrices=False)
    found = top_left(w, K).double()
    assert (found @ w.double()).norm(dim=1).numpy() == pytest.approx(s[:K].numpy(), rel=1e-5)
    near = s > s[K - 1] * (1 - 1e-3)  # values as near as this turn their vectors in float32
    assert (found @ u[:, near]).square().sum(1).numpy() == pytest.approx(1.0, abs=1e-3)


def test_what_does_not_converge_is_decomposed_whole(monkeypatch):
    w = of_spectrum(torch.ones(80), 80, 90, torch.Generator().manual_seed(0))
    monkeypatch.setattr(singular, "_iterated", lambda *_: None)
    found = top_left(w, K)
    assert (found @ found.T).numpy() == pytest.approx(torch.eye(K).numpy(), abs=1e-5)
    assert (found @ w).norm(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)
    assert matrix("flat", 0.3).top(K) is None
