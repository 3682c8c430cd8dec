"""Random changes: drawn in the base's own coordinates they count as if they had been added to W0 itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from independent import cosines
from matrices import orthonormal, spectrum

from analysis.spectra.changes import Change, LowRank
from analysis.spectra.intruders.controls import Null, drawn

WIDTH, EPS = 1e-3, 0.5


def null(n: int = 60, far: int = 80, rank: int | None = 4, size: float = 1.0) -> Null:
    generator = torch.Generator().manual_seed(n)
    sigma = spectrum("decaying", n, generator).sort().values
    s = size * 0.5 ** torch.arange(rank or n, dtype=torch.float64)
    return Null(sigma, far, s, rank)


def draw(control: str, of: Null, seed: int = 0) -> Change:
    return of.draw(control, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("control", ["spectrum", "low_rank", "dense"])
@pytest.mark.parametrize("far", [60, 80])
def test_cosines_are_those_of_the_matrix_itself(control, far):
    """W0 = X diag(σ) Zᵀ and the draw turned by X and Z, decomposed whole in double precision."""
    of, generator = null(far=far), torch.Generator().manual_seed(1)
    n = len(of.sigma)
    x, z = orthonormal(n, n, generator), orthonormal(far, far, generator)
    change = draw(control, of)
    base = (x * of.sigma) @ z[:, :n].T
    tuned = base + x @ change.double().dense() @ z.T
    wanted = cosines(base.numpy(), tuned.numpy(), 6)
    found = of.cosines(change, 6, WIDTH)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-4)
    np.testing.assert_allclose(found[2], wanted[1], atol=1e-4)
    assert (found[1] >= found[0] - 1e-9).all() and (found[3] >= found[2] - 1e-9).all()


def test_each_control_has_what_it_is_matched_by():
    for rank in (4, None):
        of = null(rank=rank)
        assert of.controls == (("spectrum", "low_rank", "dense") if rank else ("spectrum", "dense"))
        for control in of.controls:
            s = np.linalg.svd(draw(control, of).double().dense().numpy())[1]
            assert np.linalg.norm(s) == pytest.approx(float(of.spectrum.norm()), rel=1e-5)
            if control == "spectrum":
                np.testing.assert_allclose(s[: len(of.spectrum)], of.spectrum, atol=1e-5)
            assert ((s > 1e-6 * s[0]).sum() == 4) == (rank == 4 and control != "dense")


def test_singular_vectors_are_uniform():
    """Each entry of a unit vector of R^n has the mean 0 and the variance 1/n, whatever its place."""
    of = null(n=20, far=20, rank=2)
    changes = [draw("spectrum", of, seed) for seed in range(400)]
    for side in (
        torch.stack([one.b[:, 0] / of.spectrum[0] for one in changes]),
        torch.stack([one.a[0] for one in changes]),
    ):
        assert float(side.mean(0).abs().max()) < 4 / (20 * 400) ** 0.5
        assert side.var(0).numpy() == pytest.approx(1 / 20, rel=0.4)


def test_draws_depend_on_the_seed_and_the_run_and_on_nothing_else():
    of = null()
    first, again, other = (drawn(of, stream, 2, 4, WIDTH) for stream in ("0 lora-a w", "0 lora-a w", "0 lora-b w"))
    for name in of.controls:
        assert first[name].shape == (2, 4, 4)
        np.testing.assert_array_equal(first[name], again[name])
        assert np.abs(first[name] - other[name]).max() > 1e-3
        assert np.abs(first[name][0] - first[name][1]).max() > 1e-3


def test_a_tall_and_a_wide_base_count_alike():
    """Near and far sides of one matrix and of its transpose: `Null` knows the shorter side alone."""
    of, change = null(), draw("low_rank", null())
    assert isinstance(change, LowRank)
    generator = torch.Generator().manual_seed(1)
    x, z = orthonormal(60, 60, generator), orthonormal(80, 80, generator)
    base = (x * of.sigma) @ z[:, :60].T
    tuned = base + x @ change.dense() @ z.T
    left, right = cosines(base.T.numpy(), tuned.T.numpy(), 4)
    found = of.cosines(change, 4, WIDTH)
    np.testing.assert_allclose(found[[2, 0]], [left, right], atol=1e-4)


TRIAL = 384, 8, 20
"""Side, rank and draws."""


def trial(share: float) -> dict[str, float]:
    """Return the mean count of a change of halving spectrum, and of its controls, at ‖ΔW‖ = share ‖W0‖."""
    n, rank, draws = TRIAL
    sigma = torch.arange(1, n + 1, dtype=torch.float64).flip(0) ** -0.5
    s = 0.5 ** torch.arange(rank, dtype=torch.float64)
    of = Null(sigma, n, s * (share * sigma.norm() / s.norm()), rank)
    found = drawn(of, "controls", draws, 10, WIDTH) | {"learned": drawn(of, "learned", draws, 10, WIDTH)["spectrum"]}
    return {name: float((cosines[:, 0] < EPS).sum(1).mean()) for name, cosines in found.items()}


@pytest.mark.slow
def test_a_flat_control_would_call_the_shape_of_a_spectrum_an_intruder():
    """The trial behind the choice of the main control: 0.7 against 0 and 0.5, and 2.0 against 7.4 and 2.4."""
    small, large = trial(0.20), trial(0.75)
    assert small["low_rank"] == 0 < 0.4 < small["learned"] < 1.1
    assert large["low_rank"] > 7 > 3.5 > large["learned"] > 1.5
    for one in (small, large):
        assert one["spectrum"] == pytest.approx(one["learned"], abs=0.6)
