"""One estimate of each configuration's outcome, over items and seeds: numbers in, numbers out.

An outcome is the task's metric or a probe's: whatever is computed of stored items. All configurations of a block, and
all outcomes that read the same items, are estimated on the same draws of the items, so that they can be subtracted.

Two runs answered the same items, so they compare item by item. Runs of one configuration differ by their seeds, and
how far they differ is an uncertainty of its own, the outer level: with 500 items a single run's accuracy may be known
to 3 points, while another seed moves it by 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import optimize, special, stats

from analysis.effects.variance import Array, moderated, scale_of
from analysis.records.metrics import Statistic

LEVEL = 0.95
ALPHA = 0.05
POWER = 0.8
DRAWS = 2000
GRID = 200
"""Quantiles that stand for the draws where a distribution is inverted: 10 times as fast, the same to 2 digits."""


def drawn_items(items: int, draws: int = DRAWS, seed: int = 0, clusters: Array | None = None) -> Array:
    """Return how often each item is drawn in each resample, shape ``(draws, items)``; the same for equal arguments.

    Items of one cluster, such as questions on one passage, are drawn together (Miller 2024, arXiv 2411.00640, section
    2.2): `clusters` numbers them, shape ``(items,)``; without it each item is a cluster of its own.
    """
    members = np.arange(items) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    count = int(members.max()) + 1
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
    return drawn if clusters is None else drawn[:, members]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with what is uncertain in it at both levels.

    The hierarchical bootstrap, seeds outside and items inside, with two departures. The items are the same for every
    seed and are drawn once for all of them (the "pigeonhole" bootstrap, Owen 2007, Ann. Appl. Stat. 1, 386-411); and
    the seeds are not drawn, for three have only ten resamples and a percentile interval of them covers 75 % instead of
    95 %: their level is Student's t with the seeds' own spread. What items and seeds make together is in the spread
    of the seeds already, so the items' level is shrunk by it and nothing counts twice, as in the two-way analysis of
    variance, Var = (MS_seed + MS_item − MS_both)/(seeds · items).
    """

    value: float
    deviations: Array
    """Of the resamples of items from `value`, shape ``(draws,)``."""
    both: float = 0.0
    """The variance that items and seeds make together, a part of that of `deviations` and of `outer`."""
    outer: float = 0.0
    """The variance of the mean over the seeds; 0 where there is one seed and nobody knows it."""
    freedom: float = math.inf
    """Degrees of freedom of `outer`."""
    seeds: int = 1
    own: float = 0.0
    """The variance of the mean over the seeds by its own seeds alone, where `outer` borrowed from others, else 0."""
    own_freedom: float = math.inf
    """Degrees of freedom of `own`."""

    @property
    def alone(self) -> tuple[float, float]:
        """Return the variance of the mean over the seeds, and its freedom, without what was borrowed."""
        return (self.own, self.own_freedom) if self.own > 0 else (self.outer, self.freedom)

    @cached_property
    def _quantiles(self) -> Array:
        """Return the items' level: quantiles of the resamples, shrunk by what stands in the seeds' level already."""
        known = self.deviations[np.isfinite(self.deviations)]
        if not len(known):
            return np.full(1, np.nan)
        points = np.quantile(known, (np.arange(GRID) + 0.5) / GRID) if len(known) > GRID and self.outer > 0 else known
        return self.value + known.mean() + self._shrunk * (points - known.mean())

    @cached_property
    def _shrunk(self) -> float:
        """Return by how much the items' level is shrunk: the square root of the share of its variance that is left."""
        variance = float(np.nanvar(self.deviations))
        return math.sqrt(max(0.0, 1 - self.both / variance)) if variance > 0 and self.outer > 0 else 1.0

    @property
    def resampled(self) -> Array:
        """Return the value in each draw of the items, the part that the seeds' level holds already left out."""
        middle = float(np.nanmean(self.deviations))
        return self.value + middle + self._shrunk * (self.deviations - middle)

    def below(self, x: float) -> float:
        """Return the share of the distribution below x, items and seeds convolved; it needs a spread of seeds."""
        return float(special.stdtr(self.freedom, (x - self._quantiles) / math.sqrt(self.outer)).mean())

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the interval between the percentiles of the distribution."""
        tails = ((1 - level) / 2, (1 + level) / 2)
        if not np.isfinite(self._quantiles).all():
            return math.nan, math.nan
        if self.outer == 0:
            low, high = np.quantile(self._quantiles, tails)
            return float(low), float(high)
        reach = 2 * math.sqrt(self.outer) * float(stats.t.ppf(tails[1], self.freedom))
        ends = self._quantiles.min() - reach, self._quantiles.max() + reach
        low, high = (optimize.brentq(lambda x, tail=tail: self.below(x) - tail, *ends) for tail in tails)
        return float(low), float(high)


def over_seeds(values: Array, resampled: Array) -> Estimate:
    """Return the mean over seeds of a metric.

    `values` has shape ``(seeds,)``, `resampled` the metric in each draw of the items, shape ``(seeds, draws)``.
    """
    seeds, middle = len(values), float(values.mean())
    deviations = resampled.mean(0) - middle
    if seeds == 1:
        return Estimate(middle, deviations)
    apart = resampled - resampled.mean(0)
    both = float(np.nanvar(apart, axis=1).sum() / (seeds * (seeds - 1)))
    # Seeds can spread no less than their items alone make them: two that happen to agree are no proof of certainty.
    outer = max(float(values.var(ddof=1)) / seeds, both)
    return Estimate(middle, deviations, both, outer, seeds - 1, seeds)


def of_runs(values: Array, lows: Array, highs: Array) -> tuple[float, float]:
    """Return the 95 % interval of a mean over runs of numbers whose items are not at hand, such as curves and counts.

    x̄ ± √(t² s²/n + w²), t of n − 1 degrees of freedom and w the mean half-width of the runs' own intervals (NaN: none);
    of one run that interval. The runs share their items, so that w does not shrink with n.
    """
    known = bool(np.isfinite(lows).all() and np.isfinite(highs).all())
    if len(values) == 1:
        return (float(lows[0]), float(highs[0])) if known else (math.nan, math.nan)
    width = float((highs - lows).mean()) / 2 if known else 0.0
    t = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
    reach = math.hypot(t * float(values.std(ddof=1)) / math.sqrt(len(values)), width)
    return float(values.mean()) - reach, float(values.mean()) + reach


def quotient(one: Estimate, other: Estimate, unit: float = 1.0) -> Estimate:
    """Return one / (other / unit), `other` positive and without items: a gain per second, per parameter, per GiB.

    Delta method: with R = G/C, Var R = (Var G + R² Var C)/C², the seeds of both sides taken for independent, and the
    degrees of freedom of Var R by Satterthwaite. A denominator without noise, such as a count of parameters, adds none.
    """
    cost = other.value / unit
    ratio = one.value / cost
    parts = one.outer / cost**2, ratio**2 * other.outer / other.value**2
    weights = parts[0] ** 2 / one.freedom + parts[1] ** 2 / other.freedom
    freedom = sum(parts) ** 2 / weights if weights > 0 else math.inf
    found = Estimate(ratio, one.deviations / cost, one.both / cost**2, sum(parts), freedom, one.seeds)
    if one.own == 0 and other.own == 0:
        return found
    own = one.alone[0] / cost**2 + ratio**2 * other.alone[0] / other.value**2
    return replace(found, own=own, own_freedom=min(side.alone[1] for side in (one, other) if side.alone[0] > 0))


@dataclass(frozen=True)
class Resampled:
    """A configuration's outcome at each seed, of all items and in each draw of them."""

    scores: Array
    """Shape ``(seeds,)``."""
    draws: Array
    """Shape ``(seeds, draws)``."""
    levels: Array
    """What stabilises the spread of `scores`, shape ``(seeds,)``: themselves, or the level after a change."""


def resampled(rows: Array, statistic: Statistic, weights: Array) -> Resampled:
    """Return an outcome of the rows of each seed, shapes ``(seeds, items, columns)``, ``(draws, items)``."""
    whole = np.ones((1, rows.shape[1]))
    scores = np.array([float(statistic(one, whole)[0]) for one in rows])
    return Resampled(scores, np.stack([statistic(one, weights) for one in rows]), scores)


def resampled_change(before: Array, after: Array, statistic: Statistic, weights: Array) -> Resampled:
    """Return after − before, as of a probe: both read the same items, shapes as in :func:`resampled`.

    The base is one model, so seeds spread as the level after does, and that level's scale stabilises the change.
    """
    first, second = resampled(before, statistic, weights), resampled(after, statistic, weights)
    return Resampled(second.scores - first.scores, second.draws - first.draws, second.scores)


def estimates(
    found: Sequence[Resampled], bounds: tuple[float, float], items: int, beside: Sequence[Resampled] = ()
) -> list[Estimate]:
    """Return the estimates of configurations of a block, their seeds' variances moderated with those `beside`.

    `bounds` are those of the levels, `items` how many there are. With s̃² on the stabilising scale and dx/dz its slope,
    the variance of a mean over S seeds is s̃² (dx/dz)² / S. One seed is lent the others' spread; where no configuration
    has two, the estimates are of the trained models alone.
    """
    alone, every = [over_seeds(one.scores, one.draws) for one in found], [*beside, *found]
    seeds = np.array([len(one.scores) for one in every])
    variances, slopes = _stabilised(every, bounds, items)
    freedom = np.where(np.isfinite(variances), seeds - 1.0, 0.0)
    if not freedom.any():
        return alone
    posterior = moderated(variances, freedom)
    borrowed = math.isfinite(posterior.prior)
    outer = (posterior.variances * slopes**2 / seeds)[len(beside) :]
    return [
        _borrowing(one, max(float(variance), one.both), float(degrees), borrowed)
        for one, variance, degrees in zip(alone, outer, posterior.freedom[len(beside) :], strict=True)
    ]


def _borrowing(alone: Estimate, outer: float, freedom: float, borrowed: bool) -> Estimate:
    """Return an estimate with a moderated variance that keeps its own; of one seed there is none."""
    if not borrowed or alone.seeds == 1:
        return replace(alone, outer=outer, freedom=freedom)
    return replace(alone, outer=outer, freedom=freedom, own=alone.outer, own_freedom=alone.freedom)


def _stabilised(found: Sequence[Resampled], bounds: tuple[float, float], items: int) -> tuple[Array, Array]:
    """Return the seeds' variances on the stabilising scale, NaN for one seed, and dx/dz at the mean of each.

    Shares are moved off 0 and 1 as (n x + ⅜)/(n + ¾) (Anscombe 1948, Biometrika 35, 246-254). Two that agree to the
    item may differ by less than one: their variance counts as 1/(12 n²) (Sheppard's), not 0.
    """
    share = bounds == (0.0, 1.0)
    levels = [(items * one.levels + 3 / 8) / (items + 3 / 4) if share else one.levels for one in found]
    scale = scale_of(bounds, np.concatenate(levels))
    slopes = np.concatenate([scale.slope(np.array([one.mean()])) for one in levels])
    variances = [float(scale.forward(one).var(ddof=1)) if len(one) > 1 else math.nan for one in levels]
    least = 1 / (12 * items**2) / slopes**2 if share else np.zeros(len(levels))
    return np.maximum(variances, least), slopes
