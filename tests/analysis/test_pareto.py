"""Pareto-optimal configurations and forgetting at equal learning, against what can be seen by eye."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from made_runs import Made, make_run, make_sweep

from analysis.effects.blocks import effects_of
from analysis.effects.equal import reading
from analysis.effects.estimates import Estimate
from analysis.effects.families import jointly
from analysis.effects.pareto import pareto
from analysis.effects.planes import optimal
from analysis.records import read_runs
from analysis.views.drawing.command import figures
from analysis.views.drawing.page import pages

pytestmark = pytest.mark.usefixtures("quick")


def test_a_point_is_beaten_by_one_that_is_no_worse_in_both_and_better_in_one() -> None:
    points = np.array([[0.9, 0.5], [0.8, 0.1], [0.8, 0.2], [0.9, 0.5], [0.7, 0.3]])
    assert optimal(points).tolist() == [True, True, False, True, False]


def test_every_draw_has_an_optimal_point() -> None:
    draws = np.random.default_rng(0).normal(size=(200, 7, 2))
    assert optimal(draws).any(1).all()


@pytest.mark.slow
def test_the_better_in_both_is_optimal_in_every_draw_and_the_worse_in_none(tmp_path: Path) -> None:
    shown = {"lora": (0.9, 0.05), "full": (0.6, 0.9), "bitfit": (0.5, 0.01)}
    make_sweep(tmp_path, tuple(shown), made=lambda m, r, rate, s: Made(shown[m][0] + 0.01 * s, forgetting=shown[m][1]))
    rows = pareto(effects_of(read_runs(tmp_path).table)).rows.set_index("method")
    assert rows["optimal"].to_dict() == {"lora": True, "full": False, "bitfit": True}
    assert rows.loc["lora", "frequency"] > 0.9
    assert rows.loc["full", "frequency"] < 0.05
    assert rows.loc["lora", "learning"] == pytest.approx(0.91)


def test_of_two_that_are_alike_neither_is_sure(tmp_path: Path) -> None:
    make_sweep(tmp_path, made=lambda m, r, rate, s: Made(0.8 + 0.02 * s, forgetting=0.1, agreement=0.5))
    frequencies = pareto(effects_of(read_runs(tmp_path).table)).rows["frequency"]
    assert frequencies.between(0.3, 0.95).all()


def test_a_probe_where_higher_is_better_forgets_by_falling(tmp_path: Path) -> None:
    make_sweep(tmp_path, made=lambda m, *_: Made(0.8, forgetting=-0.5 if m == "lora" else -0.1))
    table = read_runs(tmp_path).table
    table["forgetting_higher_is_better"] = True
    rows = pareto(effects_of(table)).rows.set_index("method")
    assert rows["forgetting"].to_dict() == pytest.approx({"lora": 0.5, "full": 0.1})
    assert not rows.loc["lora", "optimal"]


def test_forgetting_is_read_between_the_neighbours() -> None:
    points = np.array([[0.5, 0.1], [0.7, 0.2], [0.9, 0.6]])
    assert [reading(points, [0, 1, 2], x, 0.0).value for x in (0.8, 0.6, 0.9)] == pytest.approx([0.4, 0.15, 0.6])
    assert reading(points, [1], 0.7, 3.0).value == pytest.approx(0.2)


def test_the_error_of_a_reading_is_its_derivative() -> None:
    """Moving each coordinate by a little moves the reading at a fixed level by its weight, as np.interp says too."""
    points, step = np.array([[0.5, 0.1], [0.7, 0.2], [0.9, 0.6]]), 1e-6
    found = reading(points, [0, 1, 2], 0.83, 0.0)
    assert found.value == pytest.approx(np.interp(0.83, *points.T))
    for outcome, number in itertools.product(range(2), range(3)):
        moved = points.copy()
        moved[number, outcome] += step
        slope = (np.interp(0.83, *moved.T) - found.value) / step
        assert found.weights[3 * outcome + number] == pytest.approx(slope, abs=1e-4)


@pytest.mark.slow
def test_a_large_difference_of_forgetting_is_shown_without_naming_a_level(tmp_path: Path) -> None:
    """Forgetting .3 against 2.7 at the same learning, seeds of hardly any spread."""
    score, lost = {8: 0.6, 16: 0.8}, {"lora": 0.3, "rslora": 2.7}
    made = lambda m, rank, _, seed: Made(score[rank], forgetting=lost[m] * (1 + rank / 1000) + 0.01 * seed, items=400)  # noqa: E731
    make_sweep(tmp_path, tuple(lost), ranks=(8, 16), made=made)
    (found,) = pareto(effects_of(read_runs(tmp_path).table)).equal.itertuples()
    assert 0.6 < found.learning < 0.8  # inside of what both reach, not at the lower of two maxima
    assert found.possible == pytest.approx(0.95)
    assert found.difference == pytest.approx(-2.4, abs=0.1) and found.high < -2
    assert found.verdict == f"lora forgets less than rslora at {found.learning:.3g}"


@pytest.mark.slow
def test_a_method_of_one_configuration_is_compared_at_its_own_learning(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), ranks=(8, 16), made=lambda m, rank, *_: Made(0.5 + rank / 50, forgetting=rank / 20))
    make_sweep(tmp_path, ("full",), made=lambda *_: Made(0.74, forgetting=2.7))
    (found,) = pareto(effects_of(read_runs(tmp_path).table)).equal.itertuples()
    forgotten = {found.first: found.first_forgetting, found.second: found.second_forgetting}
    assert found.learning == pytest.approx(0.74) and forgotten == pytest.approx({"lora": 0.6, "full": 2.7})
    assert found.verdict == "lora forgets less than full at 0.74" and found.possible > 0.95


@pytest.mark.slow
def test_points_are_at_the_rates_that_validation_chose(tmp_path: Path) -> None:
    """A rate that looks better on the test split, and forgets less, is no point unless validation chose it."""
    shown = {1e-4: Made(0.9, validation=0.5, forgetting=0.01), 1e-3: Made(0.7, validation=0.8, forgetting=0.4)}
    make_sweep(tmp_path, rates=tuple(shown), made=lambda m, rank, rate, s: shown[rate])
    effects = effects_of(read_runs(tmp_path).table)
    assert pareto(effects).rows["learning"].tolist() == pytest.approx([0.7, 0.7])
    assert set(pareto(effects).rows["note"]) == {"these seeds chose the rate: the score is flattered"}
    (page,) = pages(read_runs(tmp_path).table)
    drawn = figures(("pareto",))[0].data(page)
    assert drawn[["value", "forgetting_value"]].to_numpy() == pytest.approx(np.array([[0.7, 0.4]] * 2))


def test_seeds_that_learn_more_and_forget_more_are_no_independent_errors() -> None:
    """Of a difference of slope 1, what both outcomes share cancels: Var = σ² + σ² − 2 ρ σ²."""
    one = Estimate(0.7, np.zeros(50), outer=0.01, freedom=9.0, seeds=3)
    joint = jointly([one], [one], correlation=0.8)
    assert np.array([1, -1]) @ joint.covariance @ np.array([1, -1]) == pytest.approx(0.02 * 0.2)
    drawn = joint.sampled(40_000)
    # the tails are those of t with 9 degrees of freedom, whose variance is 9/7
    assert np.cov(drawn.T)[0, 0] == pytest.approx(0.01 * 9 / 7, rel=0.05)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.8, abs=0.08)


@pytest.mark.slow
def test_forgetting_at_equal_learning(tmp_path: Path) -> None:
    """LoRA forgets 2 (score − .5) and the other method 4 times that: at .7 that is .4 against 1.6."""
    score = {8: 0.6, 16: 0.8}
    slope = {"lora": 2.0, "rslora": 8.0}
    made = lambda m, rank, rate, s: Made(score[rank], forgetting=slope[m] * (score[rank] - 0.5), items=400)  # noqa: E731
    make_sweep(tmp_path, tuple(slope), ranks=(8, 16), made=made)
    (found,) = pareto(effects_of(read_runs(tmp_path).table), learning=0.7).equal.itertuples()
    assert (found.first, found.second, found.learning) == ("lora", "rslora", 0.7)
    assert (found.first_forgetting, found.second_forgetting) == pytest.approx((0.4, 1.6))
    assert found.low <= -1.2 <= found.high
    assert found.verdict == "lora forgets less than rslora at 0.7"


@pytest.mark.slow
def test_equal_learning_that_is_not_reached_says_so(tmp_path: Path) -> None:
    score = {"lora": {8: 0.6, 16: 0.7}, "full": {8: 0.9}}
    make_sweep(tmp_path, ("lora",), ranks=(8, 16), made=lambda m, rank, *_: Made(score[m][rank], forgetting=rank / 50))
    make_sweep(tmp_path, ("full",), made=lambda m, rank, *_: Made(score[m][rank]))
    (found,) = pareto(effects_of(read_runs(tmp_path).table)).equal.itertuples()
    assert found.verdict == "lora reaches 0.6 to 0.7, not 0.9" and np.isnan(found.difference)
    (asked,) = pareto(effects_of(read_runs(tmp_path).table), learning=0.65).equal.itertuples()
    assert "lora reaches 0.6 to 0.7, not 0.65" not in asked.verdict
    assert "full is at its best with one configuration, at 0.9" in asked.verdict


@pytest.mark.slow
def test_a_configuration_that_came_apart_is_no_part_of_a_methods_line(tmp_path: Path) -> None:
    shown = {4: (0.3, 2.0), 8: (0.6, 0.1), 16: (0.8, 0.3)}
    made = lambda m, rank, *_: Made(shown[rank][0], forgetting=shown[rank][1] * (1 + (m == "rslora")))  # noqa: E731
    make_sweep(tmp_path, ("lora", "rslora"), ranks=tuple(shown), made=made)
    (found,) = pareto(effects_of(read_runs(tmp_path).table), learning=0.7).equal.itertuples()
    assert (found.first_forgetting, found.second_forgetting) == pytest.approx((0.2, 0.4))
    (below,) = pareto(effects_of(read_runs(tmp_path).table), learning=0.5).equal.itertuples()
    assert "lora reaches 0.6 to 0.8, not 0.5" in below.verdict


def test_runs_without_forgetting_are_left_aside(tmp_path: Path) -> None:
    make_run(tmp_path, "method=lora", made=Made(forgetting=None))
    make_run(tmp_path, "method=full", made=Made(status="failed", reason="boom"))
    found = pareto(effects_of(read_runs(tmp_path).table))
    assert found.rows.empty and found.equal.empty
    assert "frequency" in found.rows.columns


def test_two_versions_of_a_probe_are_never_weighed(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0,))
    table = read_runs(tmp_path).table
    table.loc[0, "forgetting_version"] = 2
    found = pareto(effects_of(table))
    assert found.rows.empty
    assert "different probes or versions" in found.problems[0]
