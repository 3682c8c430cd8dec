"""Pareto-optimal configurations and forgetting at equal learning, against what can be seen by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_runs import Made, make_run, make_sweep

from analysis.pareto import at_level, between_seeds, optimal, pareto
from analysis.records import read_runs

pytestmark = pytest.mark.usefixtures("quick")


def test_a_point_is_beaten_by_one_that_is_no_worse_in_both_and_better_in_one() -> None:
    points = np.array([[0.9, 0.5], [0.8, 0.1], [0.8, 0.2], [0.9, 0.5], [0.7, 0.3]])
    assert optimal(points).tolist() == [True, True, False, True, False]


def test_every_draw_has_an_optimal_point() -> None:
    draws = np.random.default_rng(0).normal(size=(200, 7, 2))
    assert optimal(draws).any(1).all()


def test_draws_between_seeds_have_students_spread() -> None:
    values = np.array([[0.7, 0.1], [0.8, 0.3], [0.9, 0.2], [0.75, 0.4], [0.85, 0.25], [0.6, 0.15]])
    drawn = between_seeds(values, 40_000, 0)
    # the covariance of t with ν degrees of freedom is ν/(ν − 2) times that of the normal
    expected = np.cov(values.T) / 6 * 5 / 3
    assert np.cov(drawn.T) == pytest.approx(expected, rel=0.1, abs=2e-4)
    assert not between_seeds(values[:1], 10, 0).any()


@pytest.mark.slow
def test_the_better_in_both_is_optimal_in_every_draw_and_the_worse_in_none(tmp_path: Path) -> None:
    shown = {"lora": (0.9, 0.05), "full": (0.6, 0.9), "bitfit": (0.5, 0.01)}
    make_sweep(tmp_path, tuple(shown), made=lambda m, r, rate, s: Made(shown[m][0] + 0.01 * s, forgetting=shown[m][1]))
    rows = pareto(read_runs(tmp_path).table).rows.set_index("method")
    assert rows["optimal"].to_dict() == {"lora": True, "full": False, "bitfit": True}
    assert rows.loc["lora", "frequency"] > 0.9
    assert rows.loc["full", "frequency"] < 0.05
    assert rows.loc["lora", "learning"] == pytest.approx(0.91)


def test_of_two_that_are_alike_neither_is_sure(tmp_path: Path) -> None:
    make_sweep(tmp_path, made=lambda m, r, rate, s: Made(0.8 + 0.02 * s, forgetting=0.1, agreement=0.5))
    frequencies = pareto(read_runs(tmp_path).table).rows["frequency"]
    assert frequencies.between(0.3, 0.95).all()


def test_a_probe_where_higher_is_better_forgets_by_falling(tmp_path: Path) -> None:
    make_sweep(tmp_path, made=lambda m, *_: Made(0.8, forgetting=-0.5 if m == "lora" else -0.1))
    table = read_runs(tmp_path).table
    table["forgetting_higher_is_better"] = True
    rows = pareto(table).rows.set_index("method")
    assert rows["forgetting"].to_dict() == pytest.approx({"lora": 0.5, "full": 0.1})
    assert not rows.loc["lora", "optimal"]


def test_forgetting_is_interpolated_between_the_neighbours() -> None:
    points = np.array([[[0.9, 0.6], [0.5, 0.1], [0.7, 0.2]]])
    assert at_level(points, 0.8) == pytest.approx([0.4])
    assert at_level(points, 0.6) == pytest.approx([0.15])
    assert at_level(points, 0.9) == pytest.approx([0.6])
    assert np.isnan(at_level(points, 0.95)).all()
    assert np.isnan(at_level(points, 0.4)).all()
    assert at_level(points[:, :1], 0.9) == pytest.approx([0.6])
    assert np.isnan(at_level(points[:, :1], 0.8)).all()


@pytest.mark.slow
def test_forgetting_at_equal_learning(tmp_path: Path) -> None:
    """LoRA forgets 2 (score − .5) and the other method 4 times that: at .7 that is .4 against 1.6."""
    score = {8: 0.6, 16: 0.8}
    slope = {"lora": 2.0, "rslora": 8.0}
    made = lambda m, rank, rate, s: Made(score[rank], forgetting=slope[m] * (score[rank] - 0.5), items=400)  # noqa: E731
    make_sweep(tmp_path, tuple(slope), ranks=(8, 16), made=made)
    (found,) = pareto(read_runs(tmp_path).table, learning=0.7).equal.itertuples()
    assert (found.first, found.second, found.learning) == ("lora", "rslora", 0.7)
    assert (found.first_forgetting, found.second_forgetting) == pytest.approx((0.4, 1.6))
    assert found.low <= -1.2 <= found.high
    assert found.verdict == "lora forgets less than rslora at 0.7"


@pytest.mark.slow
def test_equal_learning_that_is_not_reached_says_so(tmp_path: Path) -> None:
    score = {"lora": {8: 0.6, 16: 0.7}, "full": {8: 0.9}}
    make_sweep(tmp_path, ("lora",), ranks=(8, 16), made=lambda m, rank, *_: Made(score[m][rank], forgetting=rank / 50))
    make_sweep(tmp_path, ("full",), made=lambda m, rank, *_: Made(score[m][rank]))
    (found,) = pareto(read_runs(tmp_path).table).equal.itertuples()
    assert "full is at its best with one configuration, at 0.9" in found.verdict
    assert np.isnan(found.difference)
    (asked,) = pareto(read_runs(tmp_path).table, learning=0.9).equal.itertuples()
    assert "lora reaches 0.6 to 0.7, not 0.9" in asked.verdict


@pytest.mark.slow
def test_a_configuration_that_came_apart_is_no_part_of_a_methods_line(tmp_path: Path) -> None:
    shown = {4: (0.3, 2.0), 8: (0.6, 0.1), 16: (0.8, 0.3)}
    made = lambda m, rank, *_: Made(shown[rank][0], forgetting=shown[rank][1] * (1 + (m == "rslora")))  # noqa: E731
    make_sweep(tmp_path, ("lora", "rslora"), ranks=tuple(shown), made=made)
    (found,) = pareto(read_runs(tmp_path).table, learning=0.7).equal.itertuples()
    assert (found.first_forgetting, found.second_forgetting) == pytest.approx((0.2, 0.4))
    (below,) = pareto(read_runs(tmp_path).table, learning=0.5).equal.itertuples()
    assert "lora reaches 0.6 to 0.8, not 0.5" in below.verdict


def test_runs_without_forgetting_are_left_aside(tmp_path: Path) -> None:
    make_run(tmp_path, "method=lora", made=Made(forgetting=None))
    make_run(tmp_path, "method=full", made=Made(status="failed", reason="boom"))
    found = pareto(read_runs(tmp_path).table)
    assert found.rows.empty and found.equal.empty
    assert "frequency" in found.rows.columns


def test_two_versions_of_a_probe_are_never_weighed(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0,))
    table = read_runs(tmp_path).table
    table.loc[0, "forgetting_version"] = 2
    found = pareto(table)
    assert found.rows.empty
    assert "different probes or versions" in found.problems[0]
