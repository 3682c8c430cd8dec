"""How far seeds spread, with strength borrowed across the configurations of a block.

A variance of two seeds has one degree of freedom and makes an interval of ±12.7 standard errors. Twelve configurations
of two seeds have twelve degrees of freedom between them: each variance is moved toward what the others show, by as much
as they agree (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3, article 3: limma). The fit is the robust one of Phipson et
al. (2016, Ann. Appl. Stat. 10, 946-963): one unstable configuration neither widens the others nor is narrowed by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]
TAILS = (0.05, 0.1)
"""The shares of the smallest and of the largest variances that the robust fit pulls in, limma's own choice."""
NODES = 64
"""Points of the quadrature; 32 more change the winsorised moments by less than 1e-4."""
ENDLESS = 1e6
"""Degrees of freedom from which a prior counts as known exactly."""
LEAST = 1e-5
"""Of the median variance: smaller ones count as this, or the logarithm of one 0 would decide the fit (limma's)."""


@dataclass(frozen=True)
class Scale:
    """A transformation on which the spread of seeds does not depend on their mean."""

    name: str
    forward: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    """dx/dz at x: a variance on this scale times slope² is one in the outcome's own unit (delta method)."""


ARCSINE = Scale("arcsine", lambda x: np.arcsin(np.sqrt(x)), lambda x: 2 * np.sqrt(x * (1 - x)))
LOG = Scale("log", np.log, lambda x: x)
IDENTITY = Scale("identity", lambda x: x, np.ones_like)


def scale_of(bounds: tuple[float, float], values: Array) -> Scale:
    """Return arcsine for shares, log for positive numbers without an upper bound, such as losses, else identity."""
    low, high = bounds
    if (low, high) == (0.0, 1.0):
        return ARCSINE
    return LOG if low >= 0 and math.isinf(high) and bool((values > 0).all()) else IDENTITY


@dataclass(frozen=True)
class Prior:
    """What the variances of a block have in common: they are drawn from variance · freedom / χ²(freedom)."""

    variance: float
    freedom: float
    """Infinite where they differ no more than by chance."""


@dataclass(frozen=True)
class Moderated:
    """Posterior variances of the configurations of a block, each of shape ``(configurations,)``."""

    variances: Array
    freedom: Array
    """Degrees of freedom of each: the prior's and its own, never more than those of all configurations together."""
    prior: float
    """The prior's variance, NaN where nothing could be borrowed."""
    prior_freedom: Array
    """What each borrowed; near 0 for one that is unlike the others."""


def moderated(variances: Array, freedom: Array) -> Moderated:
    """Return s̃² = (d₀ s₀² + d s²)/(d₀ + d) with min(d₀ + d, Σd) degrees of freedom (Smyth 2004, section 3).

    `variances` on a stabilising scale and their `freedom` have shape ``(configurations,)``. One of freedom 0, a single
    seed, gets the prior's variance. With fewer than two others, or where all seeds agree, nothing is borrowed.
    """
    known, total = freedom > 0, float(freedom.sum())
    if known.sum() < 2 or not np.median(variances[known]) > 0:
        return _unmoderated(variances, freedom, known)
    prior, borrowed = robust_prior(variances[known], freedom[known])
    lent = np.full(len(variances), min(prior.freedom, total))
    lent[known] = np.minimum(borrowed, ENDLESS)
    own = np.where(known, variances, 0.0) * freedom
    posterior = (lent * prior.variance + own) / (lent + freedom)
    return Moderated(posterior, np.minimum(lent + freedom, total), prior.variance, np.minimum(lent, total))


def _unmoderated(variances: Array, freedom: Array, known: NDArray[np.bool_]) -> Moderated:
    """Return each variance as it is; a single seed is lent the mean of the others, a guess where 0 were a worse one."""
    total = float(freedom.sum())
    mean = float((freedom[known] * variances[known]).sum() / total) if total else 0.0
    found = np.where(known, variances, mean)
    return Moderated(found, np.where(known, freedom, total), math.nan, np.zeros(len(variances)))


def trigamma_inverse(x: float) -> float:
    """Return y with ψ′(y) = x > 0, by Newton's method on 1/ψ′ (Smyth 2004, appendix)."""
    if x > 1e7:  # ψ′(y) → 1/y², and → 1/y at the other end
        return 1 / math.sqrt(x)
    if x < 1e-6:
        return 1 / x
    y = 0.5 + 1 / x
    for _ in range(50):
        slope = float(special.polygamma(1, y))
        step = slope * (1 - slope / x) / float(special.polygamma(2, y))
        y += step
        if -step < 1e-12 * y:
            break
    return y


def prior_of(variances: Array, freedom: Array) -> Prior:
    """Return the prior whose first two moments the log variances have (Smyth 2004, section 6.2).

    e = log s² − ψ(d/2) + log(d/2), ψ′(d₀/2) = var(e) − mean ψ′(d/2), s₀² = exp(mean(e) + ψ(d₀/2) − log(d₀/2)). Where
    var(e) is no larger than chance makes it, d₀ is infinite and s₀² the pooled variance.
    """
    half, s2 = freedom / 2, np.maximum(variances, LEAST * np.median(variances))
    e = np.log(s2) - special.psi(half) + np.log(half)
    excess = float(e.var(ddof=1) - special.polygamma(1, half).mean())
    if excess <= 0:
        return Prior(float((freedom * s2).sum() / freedom.sum()), math.inf)
    y = trigamma_inverse(excess)
    return Prior(float(np.exp(e.mean() + special.psi(y) - math.log(y))), 2 * y)


def robust_prior(variances: Array, freedom: Array) -> tuple[Prior, Array]:
    """Return the prior that winsorised log variances show, and the degrees of freedom that it lends to each.

    Phipson et al. 2016, sections 4-6: the variance of the winsorised log variances is matched with that of a winsorised
    log F(d, d₀). One that is larger than the largest of so many should be is lent less. Two are too few for it. s₀² is
    of the mean logarithm also where d₀ is infinite: the pooled variance, and the most likely one given d₀, are less
    noisy, but as d₀ is estimated of a dozen variances their 95 % intervals cover 91 to 94 % and these 94 to 96 %.
    """
    plain = prior_of(variances, freedom)
    if len(variances) < 3:
        return plain, np.full(len(variances), plain.freedom)
    d = float(freedom.max())
    z = np.log(_at_freedom(np.maximum(variances, LEAST * np.median(variances)), freedom, plain))
    middle = float(stats.trim_mean(z, TAILS[1]))
    low, high = np.quantile(z - middle, [TAILS[0], 1 - TAILS[1]])
    kept = np.clip(z - middle, low, high)
    found = _matching(float(kept.var(ddof=1)), d, plain.freedom)
    s2 = math.exp(middle + float(kept.mean()) - winsorised_moments(d, found)[0])
    return Prior(s2, found), _lent(np.exp(z) / s2, d, found)


def _at_freedom(variances: Array, freedom: Array, prior: Prior) -> Array:
    """Return variances as surprising with the most degrees of freedom as these are with their own."""
    d, most = np.broadcast_to(freedom, variances.shape), float(freedom.max())
    tail = np.clip(_tail(variances / prior.variance, d, prior.freedom), 1e-300, 1 - 1e-12)
    moved = prior.variance * _quantile(tail, np.full(len(d), most), prior.freedom)
    return np.where(d < most, moved, variances)


def _tail(ratio: Array, freedom: Array, prior: float) -> Array:
    """Return P(F(d, d₀) > ratio)."""
    if prior >= ENDLESS:
        return np.asarray(special.chdtrc(freedom, freedom * ratio))
    return np.asarray(special.fdtrc(freedom, prior, ratio))


def _quantile(tail: Array, freedom: Array, prior: float) -> Array:
    """Return the ratio that F(d, d₀) exceeds with the probability `tail`."""
    if prior >= ENDLESS:
        return np.asarray(special.chdtri(freedom, tail) / freedom)
    return np.asarray(1 / special.fdtri(prior, freedom, tail))  # 1/F(d, d₀) is F(d₀, d): exact in the upper tail


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(NODES)


def winsorised_moments(freedom: float, prior: float) -> tuple[float, float]:
    """Return mean and variance of log F(d, d₀) pulled in at the quantiles TAILS[0] and 1 − TAILS[1].

    By quadrature over probability: E g = ∫ g(log Q(u)) du between them, and the two tails' shares at their ends.
    """
    low, high = TAILS[0], 1 - TAILS[1]
    inside = low + (high - low) * (_NODES + 1) / 2
    u = np.concatenate([inside, [low, high]])
    weights = np.concatenate([_WEIGHTS * (high - low) / 2, TAILS])
    z = np.log(_quantile(1 - u, np.full(len(u), freedom), prior))
    mean = float(weights @ z)
    return mean, float(weights @ (z - mean) ** 2)


def _matching(variance: float, freedom: float, at_least: float) -> float:
    """Return d₀ ≥ `at_least` whose winsorised log F has that variance; infinite where even the least is larger."""
    if variance <= winsorised_moments(freedom, math.inf)[1]:
        return math.inf
    if math.isinf(at_least):
        return at_least

    def apart(share: float) -> float:
        return math.log(variance / winsorised_moments(freedom, share / (1 - share))[1])

    low, high = at_least / (1 + at_least), ENDLESS / (1 + ENDLESS)
    if apart(low) >= 0:
        return at_least
    if apart(high) <= 0:
        return math.inf
    share = float(optimize.brentq(apart, low, high, xtol=1e-10))
    return share / (1 - share)


def _lent(ratio: Array, freedom: float, prior: float) -> Array:
    """Return how many of the prior's degrees of freedom each configuration borrows.

    With p = P(F > ratio) and r its rank's share, u = min(p/r, 1) is the chance that it is none that stands out (Phipson
    et al. 2016, section 6), which borrows all; one that does borrows u⁴ of it. Their own rule lends it more: then 10
    instead of 7.5 of 100 families of three seeds, with one configuration ten times as unstable, show a false
    difference, and 74 instead of 70 of 100 true ones are shown. What is more surprising never borrows more.
    """
    n = len(ratio)
    tail = np.maximum(_tail(ratio, np.full(n, freedom), prior), 1e-300)
    usual = np.minimum(tail / ((n - stats.rankdata(ratio) + 0.5) / n), 1.0)
    usual = np.where(tail < 0.5, usual, 1.0)  # the lower half does not stand out; limma lends it less as well
    if (usual >= 1).all():
        return np.full(n, prior)
    order = np.argsort(tail, kind="stable")
    # an infinite prior lends one that stands out a share of what all have together
    lent = np.where(usual >= 1, prior, usual**4 * min(prior, n * freedom))[order]
    mean = np.cumsum(lent) / np.arange(1, n + 1)
    first = int(mean.argmin()) + 1
    lent[:first] = mean[first - 1]
    found = np.empty(n)
    found[order] = np.maximum.accumulate(lent)
    return found
