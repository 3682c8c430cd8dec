"""What may be said of a difference: better, worse, equivalent within a margin, or undecided and what would decide it.

"No difference shown" is not "the same": the margin δ is the smallest difference that anybody cares for. The one
interval that is printed, simultaneous for the family, decides everything: a difference is shown where it leaves out 0,
and equivalence where it lies within ±δ, which is two one-sided tests (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15,
657-680) of 2.5 % each in the whole family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.effects.estimates import ALPHA, POWER
from analysis.effects.families import Contrasts, Family, Tail, own_critical, reach_of, satterthwaite
from analysis.effects.variance import Array

MARGIN = 0.02
"""The smallest difference of interest: 2 points of accuracy, .02 nats of a loss, 2 % of a perplexity."""
SEEDS = np.arange(2.0, 101.0)
"""Numbers of seeds that are considered; more than a hundred nobody trains."""
FACTORS = np.geomspace(0.01, 1e6, 1201)
"""Multiples of items and seeds that are considered, in steps of 1.5 %."""


class Verdict(StrEnum):
    """What the family shows of a first configuration against a second."""

    better = "better"
    worse = "worse"
    equivalent = "equivalent"
    undecided = "undecided"


def verdicts(found: Family, margins: Array, higher_is_better: NDArray[np.bool_]) -> list[Verdict]:
    """Return the verdict of each difference, of shape ``(differences,)`` as `margins` and `higher_is_better`.

    One that is shown counts as shown where it is smaller than the margin too; an undefined one is undecided.
    """
    shown, inside = found.p() < ALPHA, within(found, margins)
    ahead = (found.values > 0) == higher_is_better
    known = np.select([shown & ahead, shown, inside], [Verdict.better, Verdict.worse, Verdict.equivalent], "undecided")
    return [Verdict(str(one)) for one in known]


def within(found: Family, margins: Array) -> NDArray[np.bool_]:
    """Return which intervals lie within ±margin, whether or not they leave out 0."""
    low, high = found.intervals()
    return (low > -margins) & (high < margins)


def margin_of(margin: float, bounds: tuple[float, float], level: float) -> float:
    """Return the margin in the outcome's unit: as it is, but of a positive outcome without an upper bound a share.

    A perplexity that differs by 2 % has a loss that differs by .02 nats a token, whatever its level.
    """
    relative = bounds[0] > 0 and math.isinf(bounds[1])
    return margin * abs(level) if relative else margin


@dataclass(frozen=True, order=True)
class Needed:
    """How many seeds and items decide a difference: the same interval around 0 and around ±δ then leaves one out."""

    seeds: float
    """Of each configuration; infinite where no number would do."""
    items: float

    def __str__(self) -> str:
        """Return it as ``n needed ≈ 5 seeds each`` or ``n needed ≈ 1,250 items``."""
        if not (self.seeds <= SEEDS[-1] and math.isfinite(self.items)):
            return f"n needed: more than {SEEDS[-1]:.0f} seeds each"
        items = f"{math.ceil(self.items):,} items" if self.items else ""
        seeds = f"{math.ceil(self.seeds)} seeds each" if self.seeds > 1 else ""
        return f"n needed ≈ {' and '.join(filter(None, (seeds, items)))}"


def needed(found: Contrasts, seeds: Array, margins: Array, tail: Tail) -> list[Needed]:
    """Return what each difference needs to be decided at its margin in this family, not at the difference seen.

    (t_c + t_(1+power)/2) √(I/k + (O − B + B/k) S₀/S) ≤ δ, c the family's critical value, I, O and B the variances of
    items, of seeds, and of both together, a part of O:
    with that, equal configurations are called equivalent with 80 % and ones that differ by δ different with 90 %. First
    more seeds `seeds` → S on the same items, `items` 0 then; where up to 100 will not do, k times both.
    """
    critical, several, least = tail.critical(), found.seeds > 0, np.maximum(seeds - 1, 1)
    ratio = SEEDS[:, None] / np.maximum(seeds, 1)
    by_seeds = _decides(found, (np.ones_like(ratio), ratio, (SEEDS[:, None] - 1) / least), margins, critical)
    times = FACTORS[:, None] * np.ones(len(margins))
    by_both = _decides(found, (times, times, np.maximum(times * seeds - 1, 1) / least), margins, critical)
    alone, both = _first(by_seeds, SEEDS), _first(by_both, FACTORS)
    return [
        Needed(few, 0.0) if many and math.isfinite(few) else Needed(many * max(2, k * n), k * found.units)
        for many, few, k, n in zip(several.tolist(), alone.tolist(), both.tolist(), seeds.tolist(), strict=True)
    ]


def _decides(found: Contrasts, more: tuple[Array, Array, Array], margins: Array, critical: float) -> NDArray[np.bool_]:
    """Return whether items, seeds and their freedom times `more` decide; shape ``(candidates, pairs)``."""
    shared = _reached(found, (found.seeds, found.seeds_freedom), more, critical)
    own = np.where(found.own > 0, _reached(found, (found.own, found.own_freedom), more, own_critical()), 0.0)
    return np.asarray(np.maximum(shared, own) <= margins)


def _reached(found: Contrasts, spread: tuple[Array, Array], more: tuple[Array, Array, Array], critical: float) -> Array:
    """Return how far from 0 a difference is told apart, by a variance of the seeds and its freedom."""
    items, seeds = found.items / more[0], (spread[0] - found.both + found.both / more[0]) / more[1]
    freedom = satterthwaite(items, seeds, found.units - 1, np.maximum(spread[1] * more[2], 1.0))
    reach = reach_of(critical, freedom) + special.stdtrit(freedom, (1 + POWER) / 2)
    return np.asarray(reach * np.sqrt(np.maximum(items + seeds, 0.0)))


def _first(enough: NDArray[np.bool_], candidates: Array) -> Array:
    """Return the smallest candidate of each column that is enough, infinite where none is."""
    return np.where(enough.any(0), candidates[enough.argmax(0)], np.inf)


def relation(verdict: Verdict, searched: bool, higher_is_better: bool) -> str:
    """Return the words for the one ahead: of a method only where both rates were searched for."""
    if verdict not in (Verdict.better, Verdict.worse):
        return str(verdict)
    if searched:
        return "is better"
    return "scores higher" if higher_is_better else "scores lower"
