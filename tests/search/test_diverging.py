"""A training of a search ends at its half where it is clearly diverging, and not otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_runs
from scipy import stats

from harness.errors import DivergedError
from harness.training.watch import DIVERGING, refuse_diverging


def diverging(losses: list[float]) -> bool:
    """Say whether a training of twice as many steps ends here."""
    try:
        refuse_diverging(list(enumerate(losses, 1)), 2 * len(losses))
    except DivergedError:
        return True
    return False


@pytest.mark.parametrize("rise", [-0.5, 0.0, 0.2, 0.4, 0.8])
@pytest.mark.parametrize("steps", [32, 60, 400])
def test_by_the_statistic_of_welchs_test(rise: float, steps: int) -> None:
    noise = 0.3 * np.random.default_rng(steps).standard_normal(steps // 2)
    losses = 2 + noise + rise * (np.arange(steps // 2) >= steps // 4)
    first, second = losses[: steps // 4], losses[steps // 4 :]
    statistic = stats.ttest_ind(second, first, equal_var=False).statistic
    assert diverging(losses.tolist()) == (statistic > DIVERGING)


@pytest.mark.parametrize("steps", [32, 60, 400])
def test_what_learns_nothing_rarely_ends_early(steps: int) -> None:
    """Of 1,000 trainings about a constant loss 5 end, as Student's t says for 14 degrees of freedom."""
    rng = np.random.default_rng(0)
    ended = sum(diverging((2 + 0.3 * rng.standard_normal(steps // 2)).tolist()) for _ in range(2000))
    assert ended <= 0.008 * 2000


def test_few_steps_never_end_early() -> None:
    assert not diverging([1.0, 1.0, 9.0, 9.0, 9.0])


def test_a_lost_run_of_a_search_ends_and_one_that_is_reported_goes_on(data_folder: Path, tmp_path: Path) -> None:
    """A rate that warms up to where the loss of a tiny BERT rises and stays finite."""
    base = ["model=bert_tiny", *small_runs.task("classification", data_folder), "method=head_only"]
    steep = [
        "train.max_steps=80",
        "train.learning_rate=30",
        "train.warmup_steps=80",
        "train.lr_scheduler_type=constant_with_warmup",
    ]
    ended, record = small_runs.run(tmp_path, *base, *steep, "purpose=search")
    assert record["status"] == "failed" and record["diverged"]
    assert record["reason"].startswith("diverging: after half of its steps its loss has risen by ")
    lines = (ended / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["step"] == 40
    _, reported = small_runs.run(tmp_path, *base, *steep)
    assert reported["status"] == "done"
