"""Spectral measures against closed forms, numpy and the spiked-matrix theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matrices import of_spectrum, orthonormal

from analysis.spectra import measures as spectra


def test_effective_rank_of_equal_values_is_their_number():
    assert spectra.effective_rank(torch.ones(7)) == pytest.approx(7)


def test_effective_rank_of_two_values():
    p = np.array([0.75, 0.25])
    assert spectra.effective_rank(torch.tensor([3.0, 1.0, 0.0])) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_stable_rank():
    assert spectra.stable_rank(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(6 / 4)


def test_energy_rank_counts_until_nine_tenths():
    assert spectra.energy_rank(torch.tensor([3.0, 1.0, 0.1])) == 2  # 9 of 10.01 is too little
    assert spectra.energy_rank(torch.tensor([3.0, 1.0])) == 1  # exactly nine tenths is enough
    assert spectra.energy_rank(torch.tensor([1.0, 1.0, 1.0, 1.0])) == 4


@pytest.mark.parametrize("measure", [spectra.effective_rank, spectra.stable_rank, spectra.energy_rank])
def test_the_zero_matrix_has_rank_zero(measure):
    assert measure(torch.zeros(3)) == 0


def test_relative_norm():
    assert spectra.relative_norm(torch.tensor([3.0, 4.0]), torch.tensor([10.0])) == pytest.approx(0.5)


def test_marchenko_pastur_edges_hold_a_random_spectrum():
    rows, columns, std = 400, 150, 0.3
    low, high = spectra.marchenko_pastur_edges(rows, columns, std)
    s = torch.linalg.svdvals(std * torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)))
    assert float(s[0]) == pytest.approx(high, rel=0.03)
    assert float(s[-1]) == pytest.approx(low, rel=0.06)


def test_low_rank_spectrum_is_the_dense_one():
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(40, 3, generator=generator).double(), torch.randn(3, 25, generator=generator).double()
    u, s, v = spectra.low_rank_svd(b, a)
    torch.testing.assert_close(s, torch.linalg.svdvals(b @ a)[:3])
    torch.testing.assert_close((u * s) @ v.T, b @ a)


def test_low_rank_spectrum_with_more_columns_than_the_matrix():
    b, a = torch.randn(4, 9).double(), torch.randn(9, 6).double()
    torch.testing.assert_close(spectra.low_rank_svd(b, a).s[:4], torch.linalg.svdvals(b @ a))


def test_principal_cosines_of_planes_at_a_known_angle():
    angle = 0.3
    one = torch.eye(4)[:, :2]
    other = torch.stack([torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, math.cos(angle), math.sin(angle), 0])], dim=1)
    torch.testing.assert_close(spectra.principal_cosines(one, other), torch.tensor([1.0, math.cos(angle)]))


def test_subspace_similarity_is_one_inside_and_zero_outside():
    q = orthonormal(10, 6, torch.Generator().manual_seed(0))
    assert spectra.subspace_similarity(q[:, :3], q[:, :3].flip(1), 3, 3) == pytest.approx(1)
    assert spectra.subspace_similarity(q[:, :3], q[:, 3:], 3, 3) == pytest.approx(0)
    whole = spectra.subspace_similarities(q[:, :4], q)
    one = [[spectra.subspace_similarity(q[:, :4], q, i, j) for j in range(1, 7)] for i in range(1, 5)]
    torch.testing.assert_close(whole, torch.tensor(one, dtype=whole.dtype))


def test_amplification_of_a_change_along_one_direction():
    base = of_spectrum(torch.tensor([4.0, 2.0, 1.0]), 5, 6, torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(base, full_matrices=False)
    change = 3 * torch.outer(u[:, 1], vh[1])
    assert spectra.amplification(change, base, u[:, 1:2], vh[1:2].T) == pytest.approx(3 / float(s[1]))


def test_similarity_matrix_forgets_signs():
    q = orthonormal(5, 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(spectra.similarity_matrix(q, -q), torch.eye(3, dtype=q.dtype), atol=1e-12, rtol=0)
