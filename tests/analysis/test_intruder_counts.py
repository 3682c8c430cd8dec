"""The three algorithms against a count written independently, and against theory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from independent import cosines, well_posed
from matrices import change_of, of_spectrum, orthonormal, spectrum

from analysis import krylov
from analysis.changes import Change, Dense, LowRank
from analysis.intruders import eigen
from analysis.intruders.certified import Certified
from analysis.intruders.detection import Detection, largest_window
from analysis.intruders.eigen import Eigen
from analysis.intruders.lanczos import Lanczos
from analysis.intruders.proofs import DOUBLE, SINGLE
from analysis.intruders.reference import Reference

K, EPS, WIDTH = 4, 0.5, 1e-3


@contextmanager
def iterations_even_when_small() -> Iterator[None]:
    """Have small matrices go the way of large ones."""
    with mock.patch.object(krylov, "SMALL", 1):
        yield


def detectors(base: torch.Tensor, k: int = K, eps: float = EPS, cache: Path | None = None) -> list:
    return [Reference(base, k, WIDTH), Certified(base, k, eps, WIDTH), Eigen(base, k, eps, WIDTH, cache)]


def intruders(found: Detection, eps: float = EPS) -> tuple[np.ndarray, np.ndarray]:
    return found.left.high < eps, found.right.high < eps


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    out=st.integers(30, 60),
    inner=st.integers(30, 60),
    kind=st.sampled_from(["flat", "decaying", "clusters", "equal", "deficient"]),
    change=st.sampled_from(["low", "dense"]),
    size=st.sampled_from([0.05, 0.3, 0.7, 1.5]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    eps=st.sampled_from([0.3, 0.5, 0.8]),
    seed=st.integers(0, 2**16),
)
def test_counts_equal_an_independent_count(out, inner, kind, change, size, dtype, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    base = of_spectrum(spectrum(kind, min(out, inner), generator), out, inner, generator).to(dtype).float()
    update = change_of(change, size, base, generator)
    expected = well_posed(base, update, K, eps)
    assume(expected is not None)
    with iterations_even_when_small():
        for detector in detectors(base, eps=eps):
            found = detector.detect(update)
            for got, wanted, name in zip(intruders(found, eps), expected, ("left", "right"), strict=True):
                assert got.tolist() == wanted.tolist(), f"{detector.name}, {name}"


@pytest.mark.parametrize("shape", [(330, 330), (280, 420), (420, 280)])
@pytest.mark.parametrize("change", ["low", "dense"])
def test_counts_and_bounds_at_a_size_that_iterates(shape, change):
    generator = torch.Generator().manual_seed(sum(shape))
    base = of_spectrum(spectrum("decaying", min(shape), generator), *shape, generator)
    update = change_of(change, 0.6, base, generator, rank=4)
    exact = cosines(base.double().numpy(), (base + update.dense()).double().numpy(), 8)
    assert 1 <= (exact[0] < EPS).sum() <= 7 or change == "dense"
    for detector in detectors(base, k=8):
        found = detector.detect(update)
        for side, wanted in zip((found.left, found.right), exact, strict=True):
            assert (side.high < EPS).tolist() == (wanted < EPS).tolist(), detector.name
            assert (side.low <= wanted + 1e-3).all() and (side.high >= wanted - 1e-3).all(), detector.name
            assert not side.undecided(EPS)


@pytest.mark.slow
def test_the_table_can_say_which_way_each_was_decided():
    generator = torch.Generator().manual_seed(0)
    base = of_spectrum(spectrum("decaying", 300, generator), 300, 300, generator)
    found = Certified(base, 8, EPS, WIDTH).detect(change_of("low", 0.6, base, generator, rank=4))
    assert set(found.left.decided) == {"christoffel", "ritz"}
    assert all(
        steps > 0 for steps, how in zip(found.left.steps, found.left.decided, strict=True) if how == "christoffel"
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40, 40), (60, 40), (40, 60)])
def test_what_no_algorithm_can_tell_apart_falls_to_the_reference(shape):
    """All singular values are equal: any basis is one of singular vectors, and the reference's is its own."""
    base = of_spectrum(torch.ones(40), *shape, torch.Generator().manual_seed(1))
    update = change_of("low", 0.5, base, torch.Generator().manual_seed(2))
    wanted = intruders(Reference(base, K, WIDTH).detect(update))
    with iterations_even_when_small():
        found = Certified(base, K, EPS, WIDTH).detect(update)
    assert {*found.left.decided, *found.right.decided} >= {"fallback"}
    fixed = [0, 1]  # the change's own two directions; the rest of W is as degenerate as W0
    for got, expected in zip(intruders(found), wanted, strict=True):
        assert got[fixed].tolist() == expected[fixed].tolist()


@pytest.mark.parametrize("precision", [SINGLE, DOUBLE])
def test_rounding_in_an_iteration_is_what_the_proofs_allow_for(precision):
    """A Q = Q T + β q eᵀ + R and QᵀQ = I + N: to first order ‖E‖ is at most 2 ‖R‖ + ‖N‖ ‖A‖."""
    generator = torch.Generator().manual_seed(0)
    w = of_spectrum(spectrum("flat", 400, generator), 400, 400, generator)
    lanczos = Lanczos(torch.randn(3, 400, generator=generator).to(precision.dtype))
    for _ in range(60):
        lanczos.absorb((lanczos.rows @ w.to(precision.dtype)) @ w.T.to(precision.dtype))
    exact, size = w.double() @ w.T.double(), float(torch.linalg.matrix_norm(w.double(), 2)) ** 2
    for row in range(3):
        q, jacobi = lanczos.basis[row, :61].double(), lanczos.jacobi()
        t = np.diag(jacobi.alpha[row]) + np.diag(jacobi.beta[row, :-1], 1) + np.diag(jacobi.beta[row, :-1], -1)
        rest = q[:60] @ exact - torch.from_numpy(t) @ q[:60]
        rest[-1] -= jacobi.beta[row, -1] * q[60]
        turned = q @ q.T - torch.eye(61, dtype=torch.float64)
        error = 2 * float(torch.linalg.matrix_norm(rest, 2)) / size + float(torch.linalg.matrix_norm(turned, 2))
        assert error <= max(precision.error, 1e-12)


def test_an_unchanged_matrix_has_no_intruders():
    base = of_spectrum(
        spectrum("decaying", 40, torch.Generator().manual_seed(0)), 40, 50, torch.Generator().manual_seed(0)
    )
    for detector in detectors(base):
        for change in (LowRank(torch.zeros(40, 1), torch.ones(1, 50)), Dense(torch.zeros(40, 50))):
            assert not np.concatenate(intruders(detector.detect(change))).any()


def test_the_threshold_is_strict():
    """Two base vectors at equal angles to y: |cos| is √½ for both, and y is below ε only where ε is larger."""
    base = torch.diag(torch.tensor([1.0, 0.5, 0.01]))
    y = torch.tensor([1.0, 1.0, 0.0]) / math.sqrt(2)
    update = Dense(100 * torch.outer(y, y) - base)
    for eps, expected in ((0.70, False), (0.72, True)):
        for detector in detectors(base, k=1, eps=eps):
            assert intruders(detector.detect(update), eps)[0][0] == expected, detector.name


def test_a_vector_outside_a_tall_matrix_column_space_is_an_intruder():
    """No base vector is there at all, whatever weight the spectral measure has at zero."""
    generator = torch.Generator().manual_seed(0)
    basis = orthonormal(60, 31, generator).float()
    base = basis[:, :30] @ torch.diag(torch.linspace(1, 0.3, 30)) @ orthonormal(30, 30, generator).float()
    update = LowRank(5 * basis[:, 30:], orthonormal(30, 1, generator).float().T)
    with iterations_even_when_small():
        for detector in detectors(base):
            found = detector.detect(update)
            assert found.left.high[0] < EPS, detector.name
            assert found.left.decided[0] in ("svd", "eigen", "christoffel")


def test_weights_of_exactly_repeated_singular_values_count_together():
    """y lies in the span of four base vectors of one σ, at |cos| = ½ to each: together they hold all of it."""
    generator = torch.Generator().manual_seed(0)
    u, v = orthonormal(20, 20, generator), orthonormal(20, 20, generator)
    s = torch.cat([torch.ones(4), torch.linspace(0.5, 0.1, 16)]).double()
    reference = Reference(((u * s) @ v.T).float(), 1, WIDTH)
    reference.factors = reference.factors._replace(
        u=u.float(), s=s.float(), v=v.float()
    )  # the basis the sentence names
    side = reference.side(u.float(), (u[:, :4].sum(1, keepdim=True) / 2).float())
    assert side.high[0] == pytest.approx(0.5, abs=1e-6)
    assert side.cluster_high[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shape", [(300, 300), (280, 400), (400, 280)])
def test_cluster_aware_counts_do_not_depend_on_the_basis(shape):
    """Over exactly repeated singular values single cosines differ from basis to basis; the projections do not."""
    generator = torch.Generator().manual_seed(0)
    n = min(shape)
    base = of_spectrum(spectrum("equal", n, generator), *shape, generator)
    update = change_of("low", 0.02, base, generator, rank=8)
    x, s, zh = np.linalg.svd(base.double().numpy(), full_matrices=False)
    y, _, vh = np.linalg.svd((base + update.dense()).double().numpy(), full_matrices=False)
    for detector in detectors(base):
        found = detector.detect(update)
        for side, basis, tuned in ((found.left, x, y), (found.right, zh.T, vh.T)):
            projection = [
                max(np.linalg.norm(basis[:, np.abs(s / value - 1) < 1e-4].T @ tuned[:, j]) for value in s)
                for j in range(K)
            ]
            assert (side.cluster_low <= np.array(projection) + 2e-3).all(), detector.name
            assert (side.cluster_high >= np.array(projection) - 2e-3).all(), detector.name
            assert ((side.cluster_high < EPS) == (np.array(projection) < EPS)).all(), detector.name


def test_windows_are_no_chains():
    """A hundred values in steps of half the width: a window holds three of them, not all."""
    s = 1.0005 ** np.arange(100)
    weights = np.full((1, 100), 0.01)
    assert largest_window(weights, s, 1.01e-3)[0] == pytest.approx(0.03)
    assert largest_window(weights, s, 0.0)[0] == pytest.approx(0.01)


@pytest.mark.parametrize("shape", [(900, 300), (300, 900)])
def test_spiked_matrix(shape):
    """Benaych-Georges and Nadakuditi (2012): where a spike's σ comes out, and how much of u and v survives."""
    rows, columns = shape
    theta, c = 2.0, rows / columns
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, columns, generator=generator) / math.sqrt(columns)
    u, v = orthonormal(rows, 1, generator).float(), orthonormal(columns, 1, generator).float()
    sigma = math.sqrt((1 + theta**2) * (c + theta**2)) / theta
    left = math.sqrt(1 - c * (1 + theta**2) / (theta**2 * (theta**2 + c)))
    right = math.sqrt(1 - (c + theta**2) / (theta**2 * (theta**2 + 1)))
    assert theta > c**0.25
    for detector in detectors(noise, k=1):
        top = detector.detect(LowRank(theta * u, v.T)).top
        assert float(top.s[0]) == pytest.approx(sigma, rel=0.03)
        assert abs(float(top.u[:, 0] @ u[:, 0])) == pytest.approx(left, abs=0.04)
        assert abs(float(top.v[:, 0] @ v[:, 0])) == pytest.approx(right, abs=0.04)


def test_a_spike_below_the_threshold_does_not_show():
    rows = columns = 400
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, columns, generator=generator) / math.sqrt(columns)
    u, v = orthonormal(rows, 1, generator).float(), orthonormal(columns, 1, generator).float()
    top = Certified(noise, 1, EPS, WIDTH).detect(LowRank(0.5 * u, v.T)).top
    assert float(top.s[0]) == pytest.approx(2, rel=0.03)  # the edge of the noise
    assert abs(float(top.u[:, 0] @ u[:, 0])) < 0.3


def test_random_vectors_are_as_far_as_chance_says():
    """max |cos| of a random vector is about √(2 ln n / n), and never below 1/√n."""
    n = 400
    generator = torch.Generator().manual_seed(0)
    base = of_spectrum(spectrum("flat", n, generator), n, n, generator)
    update = change_of("low", 10, base, generator, rank=8)
    cos = Reference(base, 8, WIDTH).detect(update).left.high
    assert (cos >= 1 / math.sqrt(n)).all()
    assert cos.mean() == pytest.approx(math.sqrt(2 * math.log(n) / n), rel=0.15)


def test_decompositions_are_kept_under_the_weights_own_hash(tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = of_spectrum(spectrum("decaying", 300, generator), 300, 320, generator)
    update = change_of("low", 0.6, base, generator)
    first = Eigen(base, K, EPS, WIDTH, tmp_path).detect(update)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    with mock.patch.object(eigen, "decompose", side_effect=AssertionError("decomposed again")):
        again = Eigen(base, K, EPS, WIDTH, tmp_path).detect(update)
    # The same base vectors, but what is made of them is computed anew: sums of 320 float32 products.
    np.testing.assert_allclose(again.left.high, first.left.high, rtol=0, atol=320 * 2.0**-23)
    Eigen(base + 1e-3, K, EPS, WIDTH, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.parametrize("damage", [lambda content: b"cut", lambda content: content[:-9] + b"\0" + content[-8:]])
def test_a_damaged_decomposition_is_made_again(tmp_path, damage):
    base = torch.randn(60, 70, generator=torch.Generator().manual_seed(0))
    Eigen(base, K, EPS, WIDTH, tmp_path)
    (kept,) = tmp_path.glob("*.safetensors")
    content = kept.read_bytes()
    kept.write_bytes(damage(content))
    Eigen(base, K, EPS, WIDTH, tmp_path)
    assert kept.read_bytes() != damage(content)
    with mock.patch.object(eigen, "decompose", side_effect=AssertionError("decomposed again")):
        Eigen(base, K, EPS, WIDTH, tmp_path)  # its own hash holds; its last bits may be others than before


def _peft_intruders(base: torch.Tensor, update: LowRank) -> int:
    """Count with PEFT's own function, which logs what it finds."""
    import re

    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    model = torch.nn.Sequential(torch.nn.Linear(base.shape[1], base.shape[0], bias=False))
    model[0].weight.data = base.clone()
    tuned = get_peft_model(model, LoraConfig(r=update.a.shape[0], lora_alpha=update.a.shape[0], target_modules=["0"]))
    layer = tuned.base_model.model[0]
    layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = update.a.clone(), update.b.clone()
    lines: list[str] = []
    reduce_intruder_dimension(tuned, logging_sink=lines.append)
    return sum(int(found[1]) for line in lines if (found := re.search(r"Intruders: (\d+)", line)))


@pytest.mark.parametrize("size", [0.01, 0.5, 2.0])
def test_counts_equal_those_of_peft(size):
    generator = torch.Generator().manual_seed(0)
    base = of_spectrum(spectrum("decaying", 48, generator), 48, 64, generator)
    update: Change = change_of("low", size, base, generator, rank=4)
    assert isinstance(update, LowRank)
    expected = _peft_intruders(base, update)
    assert (expected > 0) == (size > 0.1)
    for detector in detectors(base, k=10):
        assert int(intruders(detector.detect(update))[0].sum()) == expected, detector.name
