"""Over several tasks: ranks, interquartile means and probabilities of improvement against scipy and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import Made, make_run
from scipy import stats

from analysis.effects.across import across, improvement, interquartile_mean, mean_ranks
from analysis.effects.blocks import effects_of
from analysis.records import read_runs

pytestmark = pytest.mark.usefixtures("quick")


def test_the_probability_of_improvement_is_mann_and_whitneys_u() -> None:
    rng = np.random.default_rng(0)
    tasks = [[np.round(rng.normal(0.5 * k, 1, size=4 + k), 1) for k in range(2)] for _ in range(3)]
    u = [stats.mannwhitneyu(*some).statistic / (len(some[0]) * len(some[1])) for some in tasks]
    assert float(improvement(tasks, 0, 1)) == pytest.approx(np.mean(u))
    assert float(improvement(tasks, 0, 1) + improvement(tasks, 1, 0)) == pytest.approx(1)


def test_mean_ranks_by_hand() -> None:
    tasks = [
        [np.array([0.9, 0.7]), np.array([0.5]), np.array([0.8])],
        [np.array([0.1]), np.array([0.3]), np.array([0.2])],
    ]
    # .8 and .8 share the first two places, then 3; the other way round in the second task
    assert mean_ranks(tasks).tolist() == [(1.5 + 3) / 2, (3 + 1) / 2, (1.5 + 2) / 2]


def test_the_interquartile_mean_is_of_the_middle_half() -> None:
    assert float(interquartile_mean(np.array([0.0, 1, 2, 3, 4, 5, 60, -70]))) == pytest.approx(2.5)


@pytest.mark.slow
def test_what_is_best_in_two_tasks_is_best_over_both(tmp_path: Path) -> None:
    shown = {"lora": 0.9, "full": 0.6, "bitfit": 0.62}
    for task, seed, (method, accuracy) in (
        (t, s, one) for t in ("trec", "boolq") for s in range(3) for one in shown.items()
    ):
        made = Made(accuracy + 0.01 * (seed - 1), base=0.2, data=task * 16)
        make_run(tmp_path, f"method={method}", "rank=8", f"task={task}", seed=seed, made=made)
    found = across(effects_of(read_runs(tmp_path).table))
    assert found is not None
    rows = found.rows.set_index("configuration")
    assert rows.loc["lora r8", ["mean_rank", "mean_rank_low", "mean_rank_high"]].tolist() == [1, 1, 1]
    assert rows.loc["bitfit", "mean_rank"] == 2 and set(rows["tasks"]) == {2}
    # (x − base)/(1 − base); trimming 6 seeds by 25 % leaves the middle four
    assert rows.loc["lora r8", "iqm"] == pytest.approx((0.9 - 0.2) / 0.8)
    assert rows.loc["lora r8", "iqm_low"] < 0.875 < rows.loc["lora r8", "iqm_high"]
    pair = found.pairs.set_index(["first", "second"]).loc[("lora r8", "full")]
    assert (pair["probability"], pair["result"]) == (1, "better")
    assert isinstance(found.pairs, pd.DataFrame) and len(found.pairs) == 3


def test_one_task_is_nothing_to_average(tmp_path: Path) -> None:
    make_run(tmp_path, "method=lora")
    assert across(effects_of(read_runs(tmp_path).table)) is None
