"""Verdicts by hand, and by simulation: how often equality and differences are called what they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from simulated_answers import simulated
from test_families import _graded, _pairs

from analysis.effects.estimates import Estimate, drawn_items, estimates, resampled
from analysis.effects.families import Family, contrasts, family, tail
from analysis.effects.variance import Array
from analysis.effects.verdicts import MARGIN, Needed, Verdict, margin_of, needed, relation, verdicts, within
from analysis.records.metrics import mean

ONE = tail([np.ones((1, 1))])


def _of(value: float, error: float, margin: float = MARGIN, higher: bool = True) -> str:
    found = Family(np.array([value]), np.array([error]), np.array([1e6]), ONE)
    return verdicts(found, np.array([margin]), np.array([higher]))[0].value


def test_the_interval_decides_everything() -> None:
    assert _of(0.03, 0.01) == "better"  # [.010, .050]
    assert _of(-0.03, 0.01) == "worse"
    assert _of(-0.03, 0.01, higher=False) == "better"
    assert _of(0.005, 0.005) == "equivalent"  # [-.005, .015]
    assert _of(0.005, 0.009) == "undecided"  # [-.013, .023]
    assert _of(0.005, 0.009, margin=0.03) == "equivalent"
    assert _of(0.01, 0.004) == "better"  # shown, though smaller than the margin
    assert _of(math.nan, 0.01) == _of(0.0, math.nan) == "undecided"


def test_a_difference_smaller_than_the_margin_is_known_to_be() -> None:
    found = Family(np.array([0.01, 0.03]), np.array([0.004, 0.004]), np.full(2, 1e6), ONE)
    assert within(found, np.full(2, MARGIN)).tolist() == [True, False]


def test_better_is_of_methods_only_where_both_rates_were_searched() -> None:
    assert relation(Verdict.better, True, True) == relation(Verdict.worse, True, False) == "is better"
    assert relation(Verdict.better, False, True) == "scores higher"
    assert relation(Verdict.worse, False, False) == "scores lower"
    assert relation(Verdict.equivalent, False, True) == "equivalent"


def test_the_margin_of_a_perplexity_is_a_share_of_it() -> None:
    assert margin_of(0.02, (1.0, math.inf), 50.0) == 1.0
    assert margin_of(0.02, (0.0, 1.0), 0.8) == 0.02
    assert margin_of(0.02, (-math.inf, math.inf), 2.7) == 0.02


def test_forgetting_a_tenth_as_much_is_shown() -> None:
    """0.3 against 2.7 nats, SE .01: the front's own comparison could not show it."""
    rng = np.random.default_rng(0)
    found = [Estimate(value, 0.01 * rng.normal(size=500)) for value in (0.3, 2.7, 2.705)]
    made = family([contrasts(found, _pairs(3), 200)])
    said = verdicts(made, np.full(3, 0.05), np.zeros(3, dtype=bool))
    assert said == [Verdict.better, Verdict.better, Verdict.equivalent]


def _share(shift: float, spread: float) -> float:
    """Return the accuracy of `simulated`, exactly."""
    return float(stats.norm.cdf((0.8 + shift) / math.sqrt(0.36 + 0.09 + 0.49 + spread**2)))


@pytest.mark.slow
def test_a_difference_of_the_margin_is_called_equivalent_in_at_most_one_family_of_twenty() -> None:
    """Two groups of four that differ by exactly δ; within a group nothing differs, and that is found."""
    rng, spread, trials = np.random.default_rng(1), 0.05, 100
    shift = np.where(np.arange(8) < 4, 0.0, 0.32)
    margin = _share(0.32, spread) - _share(0.0, spread)
    apart = np.array([(one < 4) != (other < 4) for one, other in _pairs(8)])
    wrong, right, false = 0, [], 0
    for trial in range(trials):
        found = _graded(simulated(rng, np.full(8, spread), 3, shift, 1000), trial, 500)
        said = np.array(verdicts(found, np.full(28, margin), np.ones(28, dtype=bool)))
        wrong += (said[apart] == "equivalent").any()
        false += np.isin(said[~apart], ["better", "worse"]).any()
        right.append(np.mean(said[~apart] == "equivalent"))
    # three standard errors of .05 in 100 trials are .065
    assert max(wrong, false) / trials <= 0.05 + 0.065
    assert np.mean(right) > 0.5


def _made(rng: np.random.Generator, seeds: int, items: int, shift: Array) -> tuple[Family, list[Needed]]:
    answers = simulated(rng, np.full(5, 0.08), seeds, shift, items)
    weights = drawn_items(items, 200, int(rng.integers(10**6)))
    found = estimates([resampled(one[..., None], mean, weights) for one in answers], (0.0, 1.0), items)
    parts = contrasts(found, _pairs(5), items, graded=True)
    made = family([parts], 500)
    return made, needed(parts, np.full(10, float(seeds)), np.full(10, 0.05), made.tail)


@pytest.mark.slow
@pytest.mark.parametrize("items", [200, 800])
def test_as_many_seeds_and_items_as_needed_decide_the_margin(items: int) -> None:
    rng, equal = np.random.default_rng(2), np.zeros(5)
    pilots = [_made(rng, 3, items, equal)[1][k] for _ in range(12) for k in (0, 4, 9)]
    seeds, more = (int(np.median([getattr(one, name) for one in pilots])) for name in ("seeds", "items"))
    assert 3 < seeds < 30 and (more > 500 if items == 200 else more == 0)  # of 200 items no number of seeds is enough
    items = more or items
    shift = np.array([0.0, 0.0, 0.0, 0.0, stats.norm.ppf(_share(0, 0.08) + 0.05) * math.sqrt(0.9464) - 0.8])
    same, other = [], []
    for _ in range(25):
        found = _made(rng, seeds, items, shift)[0]
        said = np.array(verdicts(found, np.full(10, 0.05), np.ones(10, dtype=bool)))
        with_last = np.array([4 in pair for pair in _pairs(5)])
        same.append(np.mean(said[~with_last] == "equivalent"))
        other.append(np.mean(said[with_last] == "worse"))
    # meant to be .8 and .9; the median of a few pilots is no exact number
    assert 0.7 <= np.mean(same) <= 0.97
    assert 0.8 <= np.mean(other) <= 1.0


def test_seeds_alone_are_asked_for_where_they_do() -> None:
    rng = np.random.default_rng(3)
    found = [Estimate(0.5, 0.002 * rng.normal(size=500), 0.0, 0.01**2 / 3, 8.0, 3) for _ in range(2)]
    parts = contrasts(found, [(0, 1)], 2000)
    made = family([parts])
    (seeds,) = needed(parts, np.array([3.0]), np.array([0.02]), made.tail)
    # by hand, ν ≈ 8 (S − 1)/2: (t.975 + t.9) √(8e-6 + 2e-4/S) ≤ .02 first at S = 6: 3.42 · .00643 = .0220 is too much
    for count in (seeds.seeds - 1, seeds.seeds):
        freedom = 8 * (count - 1) / 2
        reach = stats.t.ppf(0.975, freedom) + stats.t.ppf(0.9, freedom)
        assert (reach * math.sqrt(8e-6 + 2e-4 / count) <= 0.0203) == (count == seeds.seeds)
    assert seeds.items == 0 and str(seeds) == f"n needed ≈ {seeds.seeds:.0f} seeds each"


def test_one_seed_needs_items() -> None:
    rng = np.random.default_rng(4)
    found = [Estimate(0.5, 0.02 * rng.normal(size=4000)) for _ in range(2)]
    parts = contrasts(found, [(0, 1)], 500)
    (items,) = needed(parts, np.array([1.0]), np.array([0.02]), family([parts]).tail)
    # by hand: 500 · (1.96 + 1.28)² · 2 · .02² / .02²
    assert items.items == pytest.approx(500 * 3.2415**2 * 2, rel=0.06)
    assert items.seeds == 0
    assert str(items) == f"n needed ≈ {math.ceil(items.items):,} items"
    assert str(Needed(math.inf, math.inf)) == str(Needed(400, 900)) == "n needed: more than 100 seeds each"
    assert str(Needed(4, 900)) == "n needed ≈ 4 seeds each and 900 items"
