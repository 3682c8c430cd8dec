"""Moderated variances against limma's own numbers, roots found another way, and simulated draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from analysis.effects.variance import (
    ARCSINE,
    IDENTITY,
    LOG,
    Array,
    Scale,
    moderated,
    prior_of,
    robust_prior,
    scale_of,
    trigamma_inverse,
    winsorised_moments,
)

SEEN = np.array([0.004, 0.011, 0.0009, 0.02, 0.0061, 0.013, 0.0005, 0.03])


@pytest.mark.parametrize("x", [1e-8, 1e-3, 0.2, 1.0, 4.9, 300.0, 1e8])
def test_trigamma_is_inverted(x: float) -> None:
    root = optimize.brentq(lambda log: math.log(special.polygamma(1, math.exp(log)) / x), -25, 25, xtol=1e-13)
    assert trigamma_inverse(x) == pytest.approx(math.exp(root), rel=1e-6)


def test_the_prior_is_limmas() -> None:
    # fitFDist of inmoose 0.9.1, a Python port of limma that its authors hold against R: scale, df2
    even = prior_of(SEEN, np.full(8, 2.0))
    assert (even.variance, even.freedom) == pytest.approx((0.00805296511819953, 5.055480696767938), rel=1e-8)
    uneven = prior_of(SEEN, np.array([1.0, 2, 4, 2, 1, 4, 2, 2]))
    assert (uneven.variance, uneven.freedom) == pytest.approx((0.010420028003240532, 20.513102218479933), rel=1e-8)


def test_variances_that_differ_less_than_chance_are_pooled() -> None:
    # limma's, of inmoose 0.9.1: the scale is the pooled variance, df2 infinite
    alike = np.array([1.0, 1.2, 0.9, 1.1, 1.05])
    assert prior_of(alike, np.full(5, 2.0)) == prior_of(alike[::-1], np.full(5, 2.0))
    assert prior_of(alike, np.full(5, 2.0)).variance == pytest.approx(alike.mean())
    found = moderated(alike, np.full(5, 2.0))
    assert found.freedom == pytest.approx(np.full(5, 10.0))  # Σd: no more than there is
    assert np.ptp(found.variances) < 1e-4 and 1.05 < found.variances[0] < 2  # the robust one errs to the wide side


@pytest.mark.parametrize(("freedom", "prior"), [(1.0, math.inf), (2.0, 6.0), (4.0, 3.0)])
def test_winsorised_moments_are_those_of_draws(freedom: float, prior: float) -> None:
    rng = np.random.default_rng(0)
    below = 1.0 if math.isinf(prior) else rng.chisquare(prior, 400_000) / prior
    z = np.log(rng.chisquare(freedom, 400_000) / freedom / below)
    z = np.clip(z, *np.quantile(z, [0.05, 0.9]))
    mean, variance = winsorised_moments(freedom, prior)
    assert mean == pytest.approx(z.mean(), abs=4 * z.std() / math.sqrt(400_000) + 2e-3)
    assert variance == pytest.approx(z.var(), rel=0.01)


def _drawn(rng: np.random.Generator, freedom: float, prior: float, count: int) -> Array:
    """Return variances of a prior of scale 1: its own inverse χ² times a χ² of the data."""
    return rng.chisquare(freedom, count) / freedom * prior / rng.chisquare(prior, count)


@pytest.mark.parametrize("freedom", [1.0, 2.0, 4.0])
def test_the_prior_that_made_many_variances_is_found(freedom: float) -> None:
    drawn = _drawn(np.random.default_rng(1), freedom, 6.0, 20_000)
    for found in (prior_of(drawn, np.full(20_000, freedom)), robust_prior(drawn, np.full(20_000, freedom))[0]):
        assert found.variance == pytest.approx(1.0, rel=0.1)
        assert found.freedom == pytest.approx(6.0, rel=0.2)


def test_posterior_variances_are_the_weighted_means_by_hand() -> None:
    found = moderated(SEEN, np.full(8, 2.0))
    lent, s0 = found.prior_freedom, found.prior
    assert found.variances == pytest.approx((lent * s0 + 2 * SEEN) / (lent + 2))
    assert found.freedom == pytest.approx(lent + 2)
    assert (lent > 3.5).all() and (lent < 5.1).all()
    # closer to the mean than on their own, in the order that they had
    assert (np.argsort(found.variances) == np.argsort(SEEN)).all()
    assert np.log(found.variances).std() < np.log(SEEN).std() / 2


@pytest.mark.parametrize("freedom", [2.0, 4.0])
def test_an_unstable_configuration_neither_lends_its_spread_nor_hides(freedom: float) -> None:
    """One of twelve with 30 times the standard deviation: the others stay as they were, it keeps its own."""
    rng, apart, hidden = np.random.default_rng(2), [], []
    for _ in range(100):
        drawn = _drawn(rng, freedom, 12.0, 12)
        drawn[0] = 900 * rng.chisquare(freedom) / freedom
        found, without = moderated(drawn, np.full(12, freedom)), moderated(drawn[1:], np.full(11, freedom))
        apart.append(np.log(found.variances[1:] / without.variances))
        hidden.append(found.variances[0] / drawn[0])
    assert np.abs(np.median(apart)) < 0.1  # 5 % of a standard deviation
    assert np.median(hidden) > 0.7  # where plain limma leaves d/(d₀ + d), .2 to .4 at the true d₀


def test_a_single_seed_is_lent_what_the_others_have() -> None:
    found = moderated(np.array([np.nan, *SEEN]), np.array([0.0, *np.full(8, 2.0)]))
    assert found.variances[0] == pytest.approx(found.prior)
    assert found.freedom[0] == pytest.approx(5.0555, abs=1e-3)
    alone = moderated(np.array([np.nan, 0.3]), np.array([0.0, 2.0]))
    assert (alone.variances.tolist(), alone.freedom.tolist()) == ([0.3, 0.3], [2.0, 2.0])
    none = moderated(np.full(3, np.nan), np.zeros(3))
    assert (none.variances.tolist(), none.freedom.tolist()) == ([0.0] * 3, [0.0] * 3)


def test_seeds_that_all_agree_have_no_spread() -> None:
    found = moderated(np.zeros(4), np.full(4, 2.0))
    assert (found.variances.tolist(), found.freedom.tolist()) == ([0.0] * 4, [2.0] * 4)


def test_moderated_t_keeps_its_level_where_its_own_prior_made_the_variances() -> None:
    """P(|t| > t₀.₉₇₅) = .05 for x/s̃ of d₀ + d degrees of freedom (Smyth 2004, section 4), with d₀ estimated of 200."""
    rng, missed = np.random.default_rng(3), []
    for _ in range(50):
        truth = 6 / rng.chisquare(6, 200)
        found = moderated(truth * rng.chisquare(1, 200), np.ones(200))
        x = rng.normal(size=200) * np.sqrt(truth)
        missed.append(2 * stats.t.sf(np.abs(x) / np.sqrt(found.variances), found.freedom) < 0.05)
    assert np.mean(missed) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("scale", "x"), [(ARCSINE, 0.3), (ARCSINE, 0.9), (LOG, 2.5), (IDENTITY, -1.2)])
def test_slopes_are_the_derivatives(scale: Scale, x: float) -> None:
    step = 1e-6
    z = scale.forward(np.array([x - step, x + step]))
    assert float(scale.slope(np.array([x]))[0]) == pytest.approx(2 * step / float(z[1] - z[0]), rel=1e-6)


def test_arcsine_makes_the_spread_of_shares_independent_of_the_share() -> None:
    # Var arcsin √p̂ ≈ 1/(4n) (Anscombe 1948, Biometrika 35, 246-254)
    rng = np.random.default_rng(4)
    for share in (0.2, 0.5, 0.85):
        z = ARCSINE.forward(rng.binomial(300, share, 20_000) / 300)
        assert z.var() == pytest.approx(1 / 1200, rel=0.05)


def test_the_scale_is_that_of_the_metric() -> None:
    assert scale_of((0.0, 1.0), np.array([0.5])) is ARCSINE
    assert scale_of((1.0, math.inf), np.array([7.0])) is LOG
    assert scale_of((0.0, math.inf), np.array([0.0, 1.0])) is IDENTITY
    assert scale_of((-1.0, 1.0), np.array([0.5])) is IDENTITY
