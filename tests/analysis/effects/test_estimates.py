"""Statistics against closed forms, other libraries, worked examples, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.effects.estimates import (
    Estimate,
    drawn_items,
    estimates,
    of_runs,
    over_seeds,
    quotient,
    resampled,
    resampled_change,
)
from analysis.effects.variance import Array, moderated
from analysis.records.metrics import mean, perplexity


def test_resamples_of_items_give_the_standard_error_of_a_mean() -> None:
    scores = np.random.default_rng(1).normal(size=400)
    found = over_seeds(np.array([scores.mean()]), (drawn_items(400) @ scores / 400)[None])
    error = scores.std() / 20
    low, high = found.interval()
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)
    reference = stats.bootstrap((scores,), np.mean, method="percentile", rng=0).confidence_interval
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.02 * error * 5)


def test_without_items_the_interval_is_students() -> None:
    values = np.array([0.81, 0.84, 0.86, 0.79])
    found = over_seeds(values, np.repeat(values[:, None], 100, axis=1))
    reference = stats.ttest_1samp(values, 0).confidence_interval()
    assert found.interval() == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_two_levels_add_up_as_in_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(3)
    seeds, items = 5, 300
    table = rng.normal(size=(seeds, 1)) * 0.3 + rng.normal(size=items) + rng.normal(size=(seeds, items))
    residual = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    ms_seed = items * table.mean(1).var(ddof=1)
    ms_item = seeds * table.mean(0).var(ddof=1)
    ms_both = (residual**2).sum() / ((seeds - 1) * (items - 1))
    found = over_seeds(table.mean(1), table @ drawn_items(items, 20_000).T / items)
    assert found.outer == pytest.approx(ms_seed / (seeds * items), rel=1e-9)
    total = found.outer + float(found.resampled.var())
    assert total == pytest.approx((ms_seed + ms_item - ms_both) / (seeds * items), rel=0.02)


def _answers(rng: np.random.Generator, seeds: int, items: int, easy: Array, spread: float) -> Array:
    """Return right and wrong answers of a method: item difficulty shared by all methods, its own, seed, chance."""
    own, seed = rng.normal(size=items), rng.normal(size=(seeds, 1))
    return (1 + spread * seed + 0.6 * easy + 0.3 * own + 0.7 * rng.normal(size=(seeds, items)) > 0).astype(float)


def test_numbers_without_items_have_students_interval_and_no_less_than_their_own() -> None:
    assert of_runs(np.array([0.1]), np.array([0.06]), np.array([0.14])) == (0.06, 0.14)
    values, none = np.array([0.81, 0.84, 0.86, 0.79]), np.full(4, np.nan)
    reference = stats.ttest_1samp(values, 0).confidence_interval()
    assert of_runs(values, none, none) == pytest.approx((reference.low, reference.high))
    low, high = of_runs(np.full(3, 0.8), np.full(3, 0.75), np.full(3, 0.85))
    assert (low, high) == pytest.approx((0.75, 0.85))


def test_a_quotient_has_the_spread_of_simulated_ones() -> None:
    """A gain of .4 (SE .03 over items, .02 over seeds) for 20 seconds (SE 1): against drawn ratios."""
    rng = np.random.default_rng(0)
    items = rng.normal(0, 0.03, size=20_000)
    gain = Estimate(0.4, items, outer=0.02**2, freedom=8.0, seeds=3)
    cost = Estimate(20.0, np.zeros(20_000), outer=1.0, freedom=6.0, seeds=3)
    found = quotient(gain, cost, 60.0)
    drawn = 60 * (0.4 + items + rng.normal(0, 0.02, 20_000)) / (20 + rng.normal(0, 1, 20_000))
    assert found.value == pytest.approx(1.2)
    assert math.sqrt(found.deviations.var() + found.outer) == pytest.approx(drawn.std(), rel=0.03)
    assert 6 < found.freedom < 14
    known = quotient(gain, Estimate(2e6, np.zeros(20_000)), 1e6)  # a count of parameters has no noise
    assert (known.value, known.outer, known.freedom) == pytest.approx((0.2, gain.outer / 4, 8.0))


def test_an_undefined_metric_stays_undefined() -> None:
    found = over_seeds(np.array([np.nan]), np.full((1, 50), np.nan))
    assert all(map(math.isnan, found.interval()))


def _block(rng: np.random.Generator, configurations: int, seeds: int, items: int) -> list[Array]:
    easy = rng.normal(size=items)
    return [_answers(rng, seeds, items, easy, 0.2)[..., None] for _ in range(configurations)]


def test_estimates_of_a_block_are_moderated_on_the_arcsine_scale() -> None:
    rows, weights = _block(np.random.default_rng(7), 8, 3, 200), drawn_items(200, 500)
    found = estimates([resampled(one, mean, weights) for one in rows], (0.0, 1.0), 200)
    shares = np.array([(200 * one[..., 0].mean(1) + 0.375) / 200.75 for one in rows])
    posterior = moderated(np.arcsin(np.sqrt(shares)).var(1, ddof=1), np.full(8, 2.0))
    middle = shares.mean(1)
    outer = posterior.variances * 4 * middle * (1 - middle) / 3
    assert [one.outer for one in found] == pytest.approx(np.maximum(outer, [one.both for one in found]))
    assert [one.freedom for one in found] == pytest.approx(posterior.freedom)
    assert min(one.freedom for one in found) > 3
    assert [one.value for one in found] == pytest.approx([one.mean() for one in rows])


def test_two_levels_of_a_block_narrow_what_two_seeds_alone_cannot_say() -> None:
    rows, weights = _block(np.random.default_rng(8), 12, 2, 300), drawn_items(300, 500)
    found = estimates([resampled(one, mean, weights) for one in rows], (0.0, 1.0), 300)
    alone = [over_seeds(one[..., 0].mean(1), one[..., 0] @ weights.T / 300) for one in rows]
    width = [np.median([np.ptp(one.interval()) for one in some]) for some in (found, alone)]
    assert 0.06 < width[0] < 0.2 < width[1]


def test_a_seed_alone_is_lent_the_blocks_spread_and_blocks_of_single_seeds_none() -> None:
    rows, weights = _block(np.random.default_rng(9), 6, 3, 200), drawn_items(200, 300)
    short = [rows[0][:1], *rows[1:]]
    found = estimates([resampled(one, mean, weights) for one in short], (0.0, 1.0), 200)
    assert found[0].seeds == 1
    assert found[0].outer == pytest.approx(3 * np.mean([one.outer for one in found[1:]]), rel=0.5)
    single = estimates([resampled(one[:1], mean, weights) for one in rows], (0.0, 1.0), 200)
    assert {one.outer for one in single} == {0.0}


def test_seeds_that_agree_to_the_item_are_not_certain() -> None:
    right = np.array([1.0] * 150 + [0.0] * 50)
    rows = [np.stack([right, right])[..., None] for _ in range(4)]
    found = estimates([resampled(one, mean, drawn_items(200, 300)) for one in rows], (0.0, 1.0), 200)
    # by hand: 1/(12 n²) of two seeds' mean, times exp(log(½) − ψ(½)) = 3.56 for the mean of logarithms at d = 1
    assert found[0].outer == pytest.approx(3.56 / (12 * 200**2) / 2, rel=0.1)


def test_a_change_is_paired_with_the_base_item_by_item() -> None:
    rng = np.random.default_rng(10)
    base = rng.normal(3, 1, size=400)
    after = base + 0.2 + 0.05 * rng.normal(size=(2, 400))
    weights = drawn_items(400, 4000)
    found = resampled_change(np.stack([base] * 2)[..., None], after[..., None], mean, weights)
    assert found.scores == pytest.approx((after - base).mean(1))
    assert found.levels == pytest.approx(after.mean(1))
    # the base's own spread, SE .05, is not in it: SE of the differences .0025
    assert found.draws.std(1) == pytest.approx(np.full(2, 0.05 / 20), rel=0.1)


def test_the_spread_of_a_loss_is_moderated_on_the_log_scale() -> None:
    rng, weights = np.random.default_rng(11), drawn_items(200, 300)
    level = np.array([1.0, 10.0, 100.0, 1000.0, 3.0, 30.0])
    losses = [np.log(mean) + rng.normal(0, 0.1, size=(3, 1)) + 0.1 * rng.normal(size=(3, 200)) for mean in level]
    rows = [np.stack([one, np.ones_like(one)], axis=-1) for one in losses]
    found = estimates([resampled(one, perplexity, weights) for one in rows], (0.0, np.inf), 200)
    relative = [math.sqrt(3 * one.outer) / one.value for one in found]
    assert relative == pytest.approx([0.1] * 6, rel=0.5)


def test_items_of_a_passage_are_drawn_together() -> None:
    rng, passages = np.random.default_rng(12), np.repeat(np.arange(60), 5)
    scores = rng.normal(size=60)[passages] + 0.3 * rng.normal(size=300)
    drawn = drawn_items(300, 4000, clusters=passages.astype(float))
    found = mean(scores[:, None], drawn).std()
    # Miller 2024, equation 4: √(Σ_clusters (Σ residuals)²)/n
    apart = scores - scores.mean()
    clustered = math.sqrt(sum(apart[passages == one].sum() ** 2 for one in range(60))) / 300
    assert found == pytest.approx(clustered, rel=0.05)
    assert mean(scores[:, None], drawn_items(300, 4000)).std() < 0.6 * found
    assert (drawn_items(300, 5) == drawn_items(300, 5, clusters=np.arange(300.0))).all()


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.1), (3, 0.0), (3, 0.4), (5, 0.1)])
def test_intervals_of_rows_cover_the_share_of_all_items_and_seeds(seeds: int, spread: float) -> None:
    rng, covered, widths = np.random.default_rng(seeds), [], []
    truth = float(stats.norm.cdf(1 / math.sqrt(0.36 + 0.09 + 0.49 + spread**2)))
    for trial in range(40):
        easy = rng.normal(size=200)
        rows = [_answers(rng, seeds, 200, easy, spread)[..., None] for _ in range(10)]
        weights = drawn_items(200, 400, trial)
        ends = [one.interval() for one in estimates([resampled(one, mean, weights) for one in rows], (0.0, 1.0), 200)]
        covered += [low <= truth <= high for low, high in ends]
        widths += [high - low for low, high in ends]
    # ten configurations share their items, so 400 intervals are worth about 150: three standard errors are .05
    assert 0.95 - 0.05 <= np.mean(covered) <= 0.995
    # of the items alone ±1.96 √(.0225/200) or so; five times that is no interval to print
    assert np.median(widths) < 5 * 2 * 1.96 * math.sqrt(truth * (1 - truth) / 200)
