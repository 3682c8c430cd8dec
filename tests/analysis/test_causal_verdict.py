"""The causal test on made runs: one whose forgetting lies along its intruder, and one where it lies beside it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matrices import orthonormal
from torch import nn

from analysis.intruders import Settings as Counting
from analysis.spectra.changes import LowRank, Matrix
from analysis.spectra.interventions.scaling import Weights
from analysis.spectra.interventions.vectors import EQUAL, Chosen, choose, controls
from analysis.spectra.interventions.verdict import CARRIES, DOES_NOT, INTRUDER, UNCHANGED, UNDECIDED, Verdict, verdicts
from harness.forgetting.base import Items
from harness.forgetting.probes.lm_loss import LanguageModelLoss
from harness.forgetting.probes.retrieval import Retrieval
from harness.tasks.base import Outcome

N, RANK, ITEMS = 48, 8, 40
NAME = "layer.weight"
LAMBDAS = (0.0, 0.5, 2.0)


@pytest.fixture(scope="module")
def made() -> tuple[Matrix, torch.Tensor]:
    """Return a matrix whose fourth tuned vector is its first intruder, and ΔW's left singular vectors.

    Three base values of about 3 stay on top; ΔW has a direction of 1.2 and seven of .5, the bulk of W0 is below .3.
    """
    generator = torch.Generator().manual_seed(0)
    s = torch.cat([torch.tensor([3.0, 2.8, 2.6]), torch.linspace(0.3, 0.1, N - 3)]).double()
    base = ((orthonormal(N, N, generator) * s) @ orthonormal(N, N, generator).T).float()
    u, v = orthonormal(N, RANK, generator).float(), orthonormal(N, RANK, generator).float()
    sigmas = torch.tensor([1.2] + [0.5] * (RANK - 1)) + 0.01 * torch.arange(RANK).flip(0)
    return Matrix(NAME, "linear", 0, base, LowRank(u * sigmas, v.T)), u


def chosen(matrix: Matrix) -> Chosen:
    pair = SimpleNamespace(names=[NAME], load=lambda name: [matrix])
    (one,) = choose(pair, Counting(base="x", tuned="y", out="z", k=6), "top", "w0", cut=True)
    return one


def answers(delta: torch.Tensor, harmful: torch.Tensor) -> Items:
    """Return a probe's items of a model that forgets by what ΔW writes along some directions, each item by its own."""
    random = np.random.default_rng(0)
    tokens, own, taught = random.integers(20, 60, ITEMS), random.uniform(2, 4, ITEMS), random.uniform(0.2, 0.6, ITEMS)
    losses = own + taught * float((harmful.T @ delta).square().sum()) + 0.01 * random.normal(size=ITEMS)
    each = enumerate(zip((losses * tokens).tolist(), tokens.tolist(), strict=True))
    return {"forgetting/lm/text": [Outcome(f"d{i}", "", "", 1.0, loss, n) for i, (loss, n) in each]}


def judged(matrix: Matrix, harmful: torch.Tensor) -> Verdict:
    """Ask the made model at each λ of each curve, its weights scaled in place as a run's are."""
    model = nn.Sequential()
    model.layer = nn.Linear(N, N, bias=False)
    model.config = SimpleNamespace(model_type="made")
    weights, one = Weights(model), chosen(matrix)
    weights.set(matrix)
    found: dict[tuple[str, float], Items] = {}
    for curve, scaling in ({INTRUDER: one.intruders} | one.equal).items():
        for factor in LAMBDAS:
            with weights.scaled([scaling], factor):
                found[curve, factor] = answers(model.layer.weight.detach() - matrix.base, harmful)
    found[UNCHANGED, 1.0] = answers(model.layer.weight.detach() - matrix.base, harmful)
    base = {"text": answers(torch.zeros(N, N), harmful)["forgetting/lm/text"]}
    (verdict,) = verdicts({"lm": LanguageModelLoss()}, {"lm": base}, found)
    return verdict


def test_the_intruder_is_what_was_made_one(made):
    matrix, u = made
    one = chosen(matrix)
    assert one.intruders.indices == (3,) and one.neighbour.indices == (2,)
    assert abs(float(one.intruders.removed.b[:, 0] @ u[:, 0])) > 0.9 * float(one.intruders.removed.b.norm())


def test_an_intruder_that_carries_the_forgetting_is_told(made):
    matrix, u = made
    found = judged(matrix, u[:, :1])
    assert found.word == CARRIES
    assert [one.curve for one in found.against] == [*EQUAL, UNCHANGED]
    assert all(one.low <= one.difference <= one.high < 0 for one in found.against)
    assert str(found).startswith("lm loss: the top intruder carries the forgetting; against shrunk -")


def test_an_intruder_beside_the_forgetting_is_told_too(made):
    """What is forgotten lies along ΔW's other directions: ΔW as a whole shrunk takes it back, the intruder nothing."""
    matrix, u = made
    found = judged(matrix, u[:, 1:])
    assert found.word == DOES_NOT
    shrunk = next(one for one in found.against if one.curve == "shrunk")
    assert shrunk.low > 0


def test_where_nothing_is_forgotten_nothing_is_said(made):
    matrix, u = made
    found = judged(matrix, torch.zeros_like(u[:, :1]))
    assert found.word == UNDECIDED and "may carry the forgetting or not" in str(found)


def test_half_of_it_each_is_undecided_or_no(made):
    """Forgetting that lies along the intruder and the others alike is not the intruder's."""
    matrix, u = made
    assert judged(matrix, u).word != CARRIES


def test_controls_remove_as_much_as_the_intruder_and_only_what_is_in_the_change(made):
    matrix, _ = made
    delta, sigma = matrix.change.dense().double(), 1.7
    left, _, right = np.linalg.svd(delta.numpy())
    found = {name: one.update(0.0).double().numpy() for name, one in controls(matrix, 3, sigma, seed=0).items()}
    for removed in found.values():
        assert np.linalg.norm(removed) == pytest.approx(sigma, rel=1e-5)
        inside = left[:, :RANK] @ left[:, :RANK].T @ removed @ right[:RANK].T @ right[:RANK]
        np.testing.assert_allclose(inside, removed, atol=1e-5)
        assert (removed * delta.numpy()).sum() < 0  # taken out of ΔW, not added to it
    np.testing.assert_allclose(found["shrunk"], -sigma * delta / np.linalg.norm(delta), atol=1e-5)
    np.testing.assert_allclose(found["own"], -sigma * np.outer(left[:, 3], right[3]), atol=1e-4)
    assert np.linalg.matrix_rank(found["span"], tol=1e-4) == 1
    again, other = (controls(matrix, 3, sigma, seed)["span"].update(0.0) for seed in (0, 1))
    assert np.allclose(again, found["span"]) and not np.allclose(other, found["span"], atol=0.1)


def test_a_probe_of_several_series_is_read_by_the_one_that_its_headline_is_of() -> None:
    """Retrieval keeps ranks beside similarities: only the ranks' mean is its MRR."""
    random = np.random.default_rng(0)
    near = [Outcome(f"{i}-near", "", "", float(value)) for i, value in enumerate(random.uniform(0, 1, 80))]

    def ranks(lost: float) -> Items:
        scores = np.clip(0.9 - lost * random.uniform(0.8, 1.2, ITEMS), 0.01, 1)
        return {"rank": [Outcome(str(i), "", "1", float(one)) for i, one in enumerate(scores)], "similarity": near}

    kept = {(INTRUDER, 0.0): 0.1, **{(curve, 0.0): 0.5 for curve in EQUAL}, (UNCHANGED, 1.0): 0.6}
    found = {
        place: {f"forgetting/retrieval/{series}": one for series, one in ranks(lost).items()}
        for place, lost in kept.items()
    }
    (verdict,) = verdicts({"retrieval": Retrieval()}, {"retrieval": ranks(0.0)}, found)
    assert (verdict.metric, verdict.word) == ("mrr", CARRIES)
    assert verdict.against[0].difference == pytest.approx(-0.4, abs=0.02)
