"""Mitigations at equal task score: the walk by its closed form, and made models that must be told apart or must not."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.spectra.interventions.equal_score import LESS, MORE, UNDECIDED, Left, Model, at_equal_score, walked
from analysis.spectra.interventions.mitigations import stopped
from analysis.spectra.interventions.verdict import UNCHANGED, readings
from harness.forgetting.base import Items
from harness.forgetting.probes.lm_loss import LanguageModelLoss
from harness.tasks.base import Outcome

PLACES = (0.75, 0.5, 0.25, 0.0)


def walk(*points: tuple[float, float]) -> list[Model]:
    return [Model(np.array([score]), np.array([forgotten])) for score, forgotten in points]


@pytest.mark.parametrize(
    ("points", "cost", "expected"),
    [
        ([(0.9, 1.0), (0.8, 0.5), (0.5, 0.0)], 0.05, 0.75),  # half way along the first line
        ([(0.9, 1.0), (0.8, 0.5), (0.5, 0.0)], 0.1, 0.5),  # at the second model itself
        ([(0.9, 1.0), (0.8, 0.5), (0.5, 0.0)], 0.25, 0.25),  # half way along the second
        ([(0.9, 1.0), (0.92, 0.4), (0.91, 0.1)], 0.01, 0.1),  # never costs so much: its end
        ([(0.9, 1.0), (0.7, 0.5), (0.95, 0.0)], 0.1, 0.75),  # falls, then rises: the walk ended where it fell
        ([(0.9, 1.0), (0.9, 0.2), (0.8, 0.0)], 0.0, 0.2),  # what costs nothing is taken
    ],
)
def test_a_walk_ends_where_the_score_has_fallen_so_far(points, cost, expected):
    assert walked(walk(*points), cost) == pytest.approx(expected)


def test_each_draw_walks_for_itself():
    """The middle model is below the target in the second draw only."""
    models = [
        Model(np.array([0.9, 0.9]), np.array([1.0, 1.0])),
        Model(np.array([0.88, 0.8]), np.array([0.5, 0.5])),
        Model(np.array([0.8, 0.7]), np.array([0.0, 0.0])),
    ]
    assert walked(models, 0.05) == pytest.approx([0.5 - 0.5 * 3 / 8, 0.75])


def answers(score: float, loss: float, seed: int, items: int = 400, documents: int = 60) -> Items:
    """Return a model's answers: each item right with a chance, in the same order of difficulty for every model."""
    own, hard = np.random.default_rng(seed), np.random.default_rng(7)
    difficulty, level = hard.uniform(size=items), hard.uniform(2, 4, documents)
    right = difficulty + 0.05 * own.normal(size=items) < score
    losses = (level + loss + 0.02 * own.normal(size=documents)) * 30
    return {
        "test": [Outcome(f"q{i}", "", "", float(one), 0.0, 1) for i, one in enumerate(right)],
        "forgetting/lm/text": [Outcome(f"d{i}", "", "", 1.0, one, 30) for i, one in enumerate(losses.tolist())],
    }


def judged(other: float, costs: tuple[float, ...] = (0.05,), seed: int = 0) -> list[Left]:
    """Compare with ΔW shrunk a mitigation that costs as much score and leaves `other` times as much forgotten.

    Both walk from a score of .8 and a loss of 1 to .4 and 0, the other one's loss falls faster by 1 - `other`.
    """
    found = {(UNCHANGED, 1.0): answers(0.8, 1.0, seed)}
    for number, at in enumerate(PLACES, 1):
        found["shrunk", at] = answers(0.4 + 0.4 * at, at, seed + number)
        found["other", at] = answers(0.4 + 0.4 * at, other * at, seed + 10 + number)
    base = answers(0.3, 0.0, seed + 30)
    plain = {"text": base["forgetting/lm/text"]}
    return at_equal_score(readings({"lm": LanguageModelLoss()}, {"lm": plain}, found), base, found, "test", costs)


def test_a_mitigation_that_leaves_less_forgotten_is_told():
    shrunk, other = sorted(judged(0.4), key=lambda one: one.curve, reverse=True)
    assert (shrunk.curve, shrunk.word, shrunk.difference) == ("shrunk", "", 0)
    assert shrunk.left == pytest.approx(0.875, abs=0.03)  # half of the way to λ = .75, by the closed form
    assert other.left == pytest.approx((1 + 0.75 * 0.4) / 2, abs=0.06)
    assert other.word == LESS and other.low <= other.difference <= other.high < 0
    assert other.difference == pytest.approx(other.left - shrunk.left)


def test_one_that_leaves_more_is_told_too():
    assert next(one for one in judged(1.6) if one.curve == "other").word == MORE


def test_equal_mitigations_are_seldom_told_apart():
    """Of 40 made pairs that differ by chance alone, 5 % may be; more than 5 of them have a chance of 1.4 %."""
    found = [next(one for one in judged(1.0, seed=100 * trial) if one.curve == "other") for trial in range(40)]
    assert sum(one.word != UNDECIDED for one in found) <= 5


def test_all_costs_are_one_family():
    alone = next(one for one in judged(0.9) if one.curve == "other")
    among = next(one for one in judged(0.9, (0.05, 0.1, 0.2)) if (one.curve, one.cost) == ("other", 0.05))
    assert among.difference == alone.difference
    assert among.high - among.low > alone.high - alone.low


def test_without_the_shrunk_change_there_is_nothing_to_compare_with():
    found = {(UNCHANGED, 1.0): answers(0.8, 1.0, 0), ("other", 0.5): answers(0.6, 0.4, 1)}
    base = answers(0.3, 0.0, 2)
    known = readings({"lm": LanguageModelLoss()}, {"lm": {"text": base["forgetting/lm/text"]}}, found)
    assert at_equal_score(known, base, found, "test", (0.01,)) == []


def test_a_kept_checkpoint_s_share_is_of_all_steps_of_the_run(tmp_path):
    """Where the last step kept none, the last checkpoint is not the end of training."""
    for step in (40, 80):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
    assert {share: path.name for share, path in stopped(tmp_path, 100).items()} == {
        0.4: "checkpoint-40",
        0.8: "checkpoint-80",
    }
    assert list(stopped(tmp_path, 80)) == [0.5]
