"""Scores and their intervals, against closed forms and other libraries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from harness.tasks.base import Outcome, accuracy, bootstrap
from harness.tasks.classification import Classification, macro_f1
from harness.tasks.instruction import Instruction
from harness.tasks.language_modeling import LanguageModeling
from harness.tasks.multiple_choice import MultipleChoice
from harness.tasks.regression import Regression, pearson
from harness.tasks.source import Source, Sources

DATA = Sources(all=Source(path="rows.jsonl"))


def graded(right: int, n: int) -> list[Outcome]:
    return [Outcome(str(i), "a", "b", float(i < right)) for i in range(n)]


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (1, 3), (33, 400), (330, 400)])
def test_accuracy_has_wilsons_interval(right: int, n: int) -> None:
    """(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), Wilson 1927."""
    z = stats.norm.ppf(0.975)
    p = right / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    score = accuracy(graded(right, n))
    assert (score.value, score.n) == (p, n)
    assert score.low == pytest.approx(middle - half, abs=1e-12)
    assert score.high == pytest.approx(middle + half, abs=1e-12)


def test_bootstrap_is_seeded_and_near_the_normal_interval() -> None:
    values = np.random.default_rng(5).normal(3, 2, 400)
    first, second = (bootstrap(values, lambda rows: rows.mean()) for _ in range(2))
    assert first == second
    assert first.value == pytest.approx(values.mean())
    half = 1.96 * values.std(ddof=1) / 20
    assert (first.low, first.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)


def test_bootstrap_draws_whole_items() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 1)).repeat(2, axis=1)
    assert bootstrap(rows, lambda r: float(np.abs(r[:, 0] - r[:, 1]).max())).high == 0


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, rng.integers(1, 7), (rng.integers(1, 40), 2)).astype(float)
    expected = f1_score(pairs[:, 0], pairs[:, 1], average="macro", zero_division=0)
    assert macro_f1(pairs[None]) == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize("items", [1, 30, 20000])
def test_resamples_scored_together_are_those_scored_one_by_one(items: int) -> None:
    pairs = np.random.default_rng(0).integers(0, 5, (items, 2)).astype(float)
    assert bootstrap(pairs, macro_f1, stacked=True) == bootstrap(pairs, lambda rows: macro_f1(rows[None])[0])


def test_classification_scores() -> None:
    task = Classification(data=DATA, columns={"text": "t", "label": "l"}, labels={"x": " a", "y": " b", "z": " c"})
    rng = np.random.default_rng(0)
    truth, said = (rng.choice(["x", "y", "z"], 80) for _ in range(2))
    outcomes = [Outcome(str(i), s, t, float(s == t)) for i, (t, s) in enumerate(zip(truth, said, strict=True))]
    scores = task.score(outcomes)
    assert scores["accuracy"].value == pytest.approx(float((truth == said).mean()))
    assert scores["macro_f1"].value == pytest.approx(f1_score(truth, said, average="macro"))
    assert scores["macro_f1"].low < scores["macro_f1"].value < scores["macro_f1"].high


def numbers(predicted: Any, true: Any) -> list[Outcome]:
    return [Outcome(str(i), "", str(t), float(p)) for i, (p, t) in enumerate(zip(predicted, true, strict=True))]


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_scipys(ties: bool) -> None:
    rng = np.random.default_rng(2)
    true = rng.normal(size=60)
    predicted = true + rng.normal(size=60)
    if ties:
        true, predicted = true.round(), predicted.round()
    scores = Regression(data=DATA, columns={"text": "t", "label": "l"}).score(numbers(predicted, true))
    assert scores["pearson"].value == pytest.approx(stats.pearsonr(predicted, true).statistic)
    assert scores["spearman"].value == pytest.approx(stats.spearmanr(predicted, true).statistic)
    for score in scores.values():
        assert -1 <= score.low < score.value < score.high <= 1


def test_constant_predictions_have_no_correlation() -> None:
    scores = Regression(data=DATA, columns={"text": "t", "label": "l"}).score(numbers([1.5] * 9, range(9)))
    assert math.isnan(scores["pearson"].value) and math.isnan(scores["spearman"].low)
    assert math.isnan(pearson(np.ones((3, 2))))


def test_perplexity_is_weighted_by_tokens() -> None:
    """exp((10 + 30) / (5 + 20)), and its interval from whole blocks."""
    task = LanguageModeling(data=DATA, columns={"text": "t"})
    score = task.score([Outcome("a", "", "", 2.0, 10.0, 5), Outcome("b", "", "", 1.5, 30.0, 20)])["perplexity"]
    assert score.value == pytest.approx(math.exp(40 / 25))
    assert (score.low, score.high) == pytest.approx((math.exp(1.5), math.exp(2.0)))
    assert not score.higher_is_better


def test_exact_match_and_rouge() -> None:
    task = Instruction(data=DATA, columns={"text": "t", "answer": "a"}, answer_pattern=r"(-?\d[\d.,]*)")
    pairs = [("It is 2,125", "2125"), ("3 or 4", "4"), ("five", "5"), ("the cat sat", "the cat ran")]
    outcomes = [Outcome(str(i), p, r, task.grade(p, r)) for i, (p, r) in enumerate(pairs)]
    assert [o.score for o in outcomes] == [1, 1, 0, 0]
    scores = task.score(outcomes)
    assert scores["exact_match"].value == 0.5
    # Longest common subsequence: "2 125" against "2125" none, "4" of three words, none, 2 of 3 words.
    assert scores["rouge_l"].value == pytest.approx((0 + 0.5 + 0 + 2 / 3) / 4)


def test_choices_are_counted_as_right_or_wrong() -> None:
    task = MultipleChoice(data=DATA, columns={"text": "t", "choices": "c", "answer": "a"})
    assert task.score(graded(3, 4))["accuracy"].value == 0.75
