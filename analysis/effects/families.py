"""All differences of a family at once: simultaneous intervals and corrected p-values that are one statement.

Each difference has a standard error of items and seeds and Student's t for its few seeds; together they have the
correlations of their joint draws, as pairs that share a configuration do. The family's error is that of the largest
|t|: a p-value is the chance that any difference of the family is as surprising (max-t: Westfall & Young 1993; Hothorn,
Bretz & Westfall 2008, Biometrical J. 50, 346-363), and the interval holds all true differences with 95 %. Both read one
curve, so that corrected p < .05 exactly where the interval leaves 0 out. A spread that was borrowed from other
configurations shows nothing that the pair's own seeds contradict (`OWN`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from analysis.effects.estimates import ALPHA, Estimate
from analysis.effects.variance import Array

SAMPLES = 20_000
CELLS = 4 * 10**6
"""Samples times differences: 0.3 s and 32 MB, whatever the size of the family."""
FEWEST = 500
SAMPLED = 4000
"""Draws of which a share is counted: its standard error is below .008."""
STEPS = np.linspace(0, 6, 25)
"""Normal deviates at which a family's size is estimated; 6 is a p-value of 2e-9."""
OWN = 1.5
"""A difference is shown where the seeds of its own configurations, nothing borrowed, show it too: p below .05/1.5.

Two or three seeds of an unstable configuration may happen to agree, and are then taken for as stable as the others. In
simulation (12 configurations, one of ten times the spread) 6 of 100 families of three seeds and 9 of two have a false
difference without this, 4 and 4 with it (3,600 and 1,100 trials). Of two configurations 10 become 4 of 100.
"""
FARTHEST = 37.0
"""The normal deviate of the smallest probability that a float holds, 1e-300."""
_CURVE = np.linspace(0, FARTHEST + 1, 3801)


@dataclass(frozen=True)
class Contrasts:
    """Differences between configurations of one block in one outcome, and what is uncertain in them."""

    values: Array
    """First − second, shape ``(pairs,)``."""
    items: Array
    """The variance that the items make, shape ``(pairs,)``."""
    seeds: Array
    """The variance that the seeds make, shape ``(pairs,)``; 0 where no configuration has two."""
    units: int
    """Items, or clusters of them, that were drawn."""
    seeds_freedom: Array
    """Degrees of freedom of `seeds`, shape ``(pairs,)``."""
    both: Array
    """The part of `seeds` that items and seeds make together, shape ``(pairs,)``."""
    loadings: Array
    """Shape ``(pairs, factors)``: the joint errors are loadings @ independent standard normal draws."""
    own: Array
    """The variance that the seeds make by the pair's own seeds, shape ``(pairs,)``; 0 where nothing was borrowed."""
    own_freedom: Array
    """Degrees of freedom of `own`, shape ``(pairs,)``."""

    @property
    def errors(self) -> Array:
        """Return the standard errors."""
        return np.sqrt(self.items + self.seeds)

    @property
    def freedom(self) -> Array:
        """Return degrees of freedom of items and seeds together, by Welch and Satterthwaite."""
        return satterthwaite(self.items, self.seeds, self.units - 1, self.seeds_freedom)

    @property
    def own_errors(self) -> Array:
        """Return the standard errors by the pair's own seeds, 0 where nothing was borrowed."""
        return np.where(self.own > 0, np.sqrt(self.items + self.own), 0.0)

    @property
    def all_own_freedom(self) -> Array:
        """Return degrees of freedom of items and own seeds together."""
        return satterthwaite(self.items, self.own, self.units - 1, self.own_freedom)


def satterthwaite(items: Array, seeds: Array, units: float, freedom: Array) -> Array:
    """Return (I + O)² / (I²/ν_I + O²/ν_O) (Satterthwaite 1946, Biometrics 2, 110-114)."""
    parts = items**2 / max(1.0, units) + seeds**2 / freedom
    found: Array = np.divide((items + seeds) ** 2, parts, out=np.ones_like(parts), where=parts > 0)
    return found


@dataclass(frozen=True)
class Joint:
    """Several estimates of a block and what is uncertain in all of them together, each of shape ``(estimates, …)``."""

    values: Array
    drawn: Array
    """The covariance over the draws of items, shape ``(estimates, estimates)``."""
    shared: Array
    """The variance that items and seeds make together: it is in `drawn` and in `outer`."""
    outer: Array
    """The covariance that the seeds make, shape ``(estimates, estimates)``."""
    freedom: Array
    """Degrees of freedom of the seeds' part, infinite where there is none."""
    own: Array
    """`outer` by each estimate's own seeds, nothing borrowed."""
    own_freedom: Array
    borrowed: NDArray[np.bool_]
    """Which borrowed: shape ``(estimates,)``."""

    @property
    def covariance(self) -> Array:
        """Return the covariance of items and seeds, what both make together once."""
        return self.drawn + self.outer - np.diag(self.shared)

    def turned(self, signs: Array) -> Joint:
        """Return it for estimates times `signs`, +1 or −1 each."""
        both = np.outer(signs, signs)
        drawn, outer, own = self.drawn * both, self.outer * both, self.own * both
        return replace(self, values=self.values * signs, drawn=drawn, outer=outer, own=own)

    def sampled(self, count: int = SAMPLED) -> Array:
        """Return draws of the estimates, shape ``(draws, estimates)``: items normal, seeds with Student's tails."""
        rng, size = np.random.default_rng(0), len(self.values)
        items = rng.standard_normal((count, size)) @ _root(self.drawn - np.diag(self.shared)).T
        known = np.isfinite(self.freedom)
        degrees = np.where(known, self.freedom, 1.0)
        heavy = np.where(known, np.sqrt(rng.chisquare(degrees, (count, size)) / degrees), 1.0)
        return self.values + items + rng.standard_normal((count, size)) @ _root(self.outer).T / heavy


def jointly(*sets: Sequence[Estimate], correlation: float = 0.0) -> Joint:
    """Return the joint uncertainty of sets of estimates, each resampled on the same draws of its own items.

    Estimates at the same place of two sets are of the same seeds: these correlate by `correlation`, their items do not.
    """
    found = [one for some in sets for one in some]
    alike = np.kron(np.full((len(sets), len(sets)), correlation), np.eye(len(sets[0])))
    np.fill_diagonal(alike, 1.0)
    outer, freedom = _spread([(one.outer, one.freedom) for one in found])
    own, own_freedom = _spread([one.alone for one in found])
    return Joint(
        np.array([one.value for one in found]),
        linalg.block_diag(*(_covariance(some) for some in sets)),
        np.array([one.both if one.outer > 0 else 0.0 for one in found]),
        alike * np.sqrt(np.outer(outer, outer)),
        freedom,
        alike * np.sqrt(np.outer(own, own)),
        own_freedom,
        np.array([one.own > 0 for one in found]),
    )


def _spread(found: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    """Return variances and their freedom, infinite where there is none of them."""
    variances, freedom = (np.array(column, dtype=float) for column in zip(*found, strict=True))
    known = variances > 0
    return np.where(known, variances, 0.0), np.where(known, freedom, math.inf)


def contrasts(
    found: Sequence[Estimate], pairs: Sequence[tuple[int, int]], units: int, graded: bool = False
) -> Contrasts:
    """Return the differences of `pairs` of the estimates of a block, all resampled on the same draws of its items.

    Right or wrong answers (`graded`) have two items more, one won and one lost (Bonett & Price 2012, J. Educ. Behav.
    Stat. 37, 479-488): two configurations that agree on all items may differ on the next.
    """
    signs = np.zeros((len(pairs), len(found)))
    rows = np.arange(len(pairs))
    signs[rows, [one for one, _ in pairs]], signs[rows, [other for _, other in pairs]] = 1, -1
    values = np.array([found[one].value - found[other].value for one, other in pairs])
    return combined(jointly(found), signs, values, units, 2 / (units + 2) ** 2 if graded else 0.0)


def combined(joint: Joint, weights: Array, values: Array, units: int, more: float = 0.0) -> Contrasts:
    """Return sums of estimates with `weights`, shape ``(sums, estimates)``, and of `more` variance of items each.

    Items and seeds add up as in the two-way analysis of variance; what both make together counts once, in the seeds.
    """
    both = weights**2 @ joint.shared
    items = np.maximum(((weights @ joint.drawn) * weights).sum(1) - both, 0.0) + more
    seeds, own = (np.maximum(((weights @ one) * weights).sum(1), 0.0) for one in (joint.outer, joint.own))
    borrowed = (weights != 0) @ joint.borrowed
    factor = _root(joint.covariance)
    loadings = np.hstack([weights @ factor, np.sqrt(more) * np.eye(len(weights))])
    freedom, own_freedom = (_seeds_freedom(one, weights) for one in (joint.freedom, joint.own_freedom))
    return Contrasts(values, items, seeds, units, freedom, both, loadings, np.where(borrowed, own, 0.0), own_freedom)


def _covariance(found: Sequence[Estimate]) -> Array:
    """Return the covariance over the draws of items in which all are defined, 0 for one that never is."""
    known = [one.deviations if math.isfinite(one.value) else np.zeros(len(one.deviations)) for one in found]
    deviations = np.stack(known)
    return np.atleast_2d(np.cov(deviations[:, np.isfinite(deviations).all(0)], ddof=0))


def _root(covariance: Array) -> Array:
    """Return F with F Fᵀ = covariance, of no negative eigenvalue but for rounding."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _seeds_freedom(freedom: Array, weights: Array) -> Array:
    """Return the degrees of freedom of the seeds' part of each difference: the smallest of its sides'.

    Welch's sum of both takes two variances for independent, and these borrow from one prior. In simulation (12
    configurations of 2 or 3 seeds and unequal spreads) it shows a false difference in 7 of 100 families, the smaller in
    3 to 4.
    """
    return np.asarray(np.where(weights != 0, freedom, math.inf).min(1, initial=math.inf))


@dataclass(frozen=True)
class Tail:
    """P(max |Z| ≥ q) of a family of correlated standard normal deviates, for every q."""

    log_p: Array
    """On `_CURVE`, never rising."""

    def p(self, deviates: Array) -> Array:
        """Return the chance that the largest of the family is as far out."""
        return np.exp(np.interp(deviates, _CURVE, self.log_p))

    def critical(self, alpha: float = ALPHA) -> float:
        """Return the deviate that the largest of the family exceeds with the chance `alpha`."""
        return float(np.interp(math.log(alpha), self.log_p[::-1], _CURVE[::-1]))


def tail(loadings: Sequence[Array], samples: int = SAMPLES) -> Tail:
    """Return the tail of the largest deviate of several sets that are drawn apart, by importance sampling.

    P(max |Z| ≥ q) = Σ_j P(|Z_j| ≥ q) E[1/N | |Z_j| ≥ q], N how many of the family are as far out (Naiman & Priebe 2001,
    J. Comput. Graph. Stat. 10, 296-328). So P = 2 Φ(−q) · m(q) with the family's effective size m(q) between 1 and m:
    its relative error, unlike that of counted draws, does not grow where q is large, and p has no floor. Sets of other
    blocks or outcomes count as independent, which is the worst case (Šidák 1967, J. Am. Stat. Assoc. 62, 626-633).
    """
    unit = [_normalised(one) for one in loadings]
    size = sum(len(one) for one in unit)
    if size <= 1:
        return Tail(np.log(2) + special.log_ndtr(-_CURVE))
    log_size = np.log(_effective_sizes(unit, min(samples, max(FEWEST, CELLS // size))))
    # beyond the last step the size runs to m, Bonferroni's bound, which it never exceeds
    log_sizes = np.interp(_CURVE, [*STEPS, 9.0], [*log_size, math.log(size)])
    log_p = np.minimum(np.log(2) + special.log_ndtr(-_CURVE) + log_sizes, 0.0)
    return Tail(np.minimum.accumulate(log_p))


def _normalised(loadings: Array) -> Array:
    """Return rows of length 1; one without any spread stands for itself, as nothing else moves with it."""
    length = np.linalg.norm(loadings, axis=1)
    return np.hstack([loadings / np.where(length > 0, length, 1.0)[:, None], np.diag(np.where(length > 0, 0.0, 1.0))])


def _effective_sizes(unit: Sequence[Array], samples: int) -> Array:
    """Return m(q) at each of `STEPS`, which cannot fall: m · mean 1/N over samples with a member beyond q."""
    rng = np.random.default_rng(0)
    drawn = np.hstack([rng.standard_normal((samples, one.shape[1])) @ one.T for one in unit])
    correlation = linalg.block_diag(*(one @ one.T for one in unit))
    size, rows = len(correlation), np.arange(samples)
    member = rows % size
    along = correlation[member]
    without = drawn - along * drawn[rows, member, None]
    chance = (rng.permutation(samples) + 0.5) / samples
    found = []
    for q in STEPS:
        beyond = -special.ndtri(chance * special.ndtr(-q))
        count = (np.abs(without + along * beyond[:, None]) >= q).sum(1)
        found.append(size * float((1 / np.maximum(count, 1)).mean()))
    return np.clip(np.maximum.accumulate(found), 1.0, size)


@dataclass(frozen=True)
class Family:
    """Differences with one correction for all of them; every array has shape ``(differences,)``."""

    values: Array
    errors: Array
    freedom: Array
    tail: Tail
    own_errors: Array = field(default_factory=lambda: np.zeros(1))
    """Standard errors with nothing borrowed, 0 where nothing was."""
    own_freedom: Array = field(default_factory=lambda: np.ones(1))

    @cached_property
    def deviates(self) -> Array:
        """Return the normal deviates as far out as each |t| with its degrees of freedom."""
        below = np.maximum(self._beyond(self.errors, self.freedom), 1e-300)
        found = np.where((self.errors > 0) | (self.values == 0), -special.ndtri_exp(np.log(below)), FARTHEST)
        return np.where(np.isfinite(self.values + self.errors), found, np.nan)

    def _beyond(self, errors: Array, freedom: Array) -> Array:
        """Return the chance of one tail of Student's t beyond the values; ½ without an error."""
        t = np.divide(np.abs(self.values), errors, out=np.zeros_like(self.values), where=errors > 0)
        return np.asarray(special.stdtr(freedom, -t))

    def alone(self) -> Array:
        """Return the p-value of each difference as if it were the only one."""
        return 2 * special.ndtr(-self.deviates)

    def p(self) -> Array:
        """Return the p-values corrected for the family, none below `OWN` times that of the pair's own seeds."""
        return np.maximum(self.tail.p(self.deviates), self.by_own_seeds())

    def by_own_seeds(self) -> Array:
        """Return `OWN` times the p-values of the pairs' own seeds, 0 where nothing was borrowed."""
        found = np.minimum(2 * OWN * self._beyond(self.own_errors, self.own_freedom), 1.0)
        return np.where(self.own_errors > 0, found, 0.0)

    def reach(self, alpha: float = ALPHA) -> Array:
        """Return half the width of the intervals that hold all true differences with the chance 1 − alpha."""
        joint = self.errors * reach_of(self.tail.critical(alpha), self.freedom)
        return np.maximum(joint, self.own_errors * reach_of(own_critical(alpha), self.own_freedom))

    def intervals(self, alpha: float = ALPHA) -> tuple[Array, Array]:
        """Return the ends of the simultaneous intervals."""
        reach = self.reach(alpha)
        return self.values - reach, self.values + reach

    def __len__(self) -> int:
        """Return how many differences there are."""
        return len(self.values)


def own_critical(alpha: float = ALPHA) -> float:
    """Return the deviate that a pair's own seeds have to exceed."""
    return -float(special.ndtri(alpha / OWN / 2))


def reach_of(deviate: float, freedom: Array) -> Array:
    """Return the t with as many degrees of freedom that is as far out as a normal deviate."""
    return np.asarray(-special.stdtrit(freedom, special.ndtr(-deviate)))


def family(parts: Sequence[Contrasts], samples: int = SAMPLES) -> Family:
    """Return the differences of all parts, other blocks and other outcomes, as one family."""
    names = ("values", "errors", "freedom", "own_errors", "all_own_freedom")
    values, errors, freedom, *own = (np.concatenate([getattr(one, name) for one in parts]) for name in names)
    return Family(values, errors, freedom, tail([one.loadings for one in parts], samples), *own)
