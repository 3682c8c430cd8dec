"""Forgetting at equal learning: what two methods forget where they learn the same.

Each method is the line between its best configurations, read at one level of learning inside what both reach; nothing
is extrapolated. Read at L between configurations 0 and 1, f = y₀ + s (y₁ − y₀) with s = (L − x₀)/(x₁ − x₀), and to
first order its error is (1 − s)(ε_y₀ − b ε_x₀) + s (ε_y₁ − b ε_x₁) with the slope b = (y₁ − y₀)/(x₁ − x₀): a sum of the
errors of estimates, so that differences of such readings are a family like all others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from analysis.effects.estimates import LEVEL
from analysis.effects.families import Contrasts, Family, combined, family
from analysis.effects.planes import Plane
from analysis.effects.variance import Array
from analysis.effects.verdicts import Needed, Verdict, needed, verdicts

Line = list[int]
"""A method's best configurations, in order of their learning."""


class Equal(NamedTuple):
    """What two methods forget where they learn the same, or why that cannot be said."""

    where: str
    first: str
    second: str
    learning: float
    first_forgetting: float
    second_forgetting: float
    difference: float
    """First − second; more is worse."""
    low: float
    high: float
    """The interval of `difference`, which holds all differences of the family with 95 %."""
    p_family: float
    possible: float
    """How surely both methods reach `learning`."""
    result: str
    """The verdict of the first against the second, empty where there is none."""
    verdict: str
    """What may be said, in words."""


@dataclass(frozen=True)
class Reading:
    """Forgetting at a level of learning."""

    value: float
    weights: Array
    """Of the errors of learning and forgetting in :attr:`Plane.joint`, shape ``(2 configurations,)``."""


@dataclass(frozen=True)
class _Pair:
    """Two methods, and their forgetting at a level or the reason why there is none."""

    plane: Plane
    names: tuple[str, str]
    level: float
    """Turned, so that more is better."""
    sides: tuple[Reading, Reading] | None
    possible: float
    why: str = ""

    @property
    def learning(self) -> float:
        """Return the level as a score."""
        return self.level * self.plane.sign


def equal_learning(planes: Sequence[Plane], learning: float | None, margin: float) -> list[Equal]:
    """Return what every two methods of each plane forget at the same learning, all of them one family.

    `learning` is the score at which they are compared; unless given, the highest that both reach with 95 %.
    """
    pairs = [pair for plane in planes for pair in _pairs(plane, learning)]
    known = [pair for pair in pairs if pair.sides is not None]
    judged = iter(_judged(known, margin)) if known else iter(())
    return [_unknown(pair) if pair.sides is None else next(judged) for pair in pairs]


def _pairs(plane: Plane, learning: float | None) -> Iterator[_Pair]:
    asked = None if learning is None else learning * plane.sign
    for (first, one), (second, other) in itertools.combinations(plane.fronts().items(), 2):
        level = _level(plane, one, other) if asked is None else asked
        yield _pair(plane, (first, second), (one, other), level)


def _pair(plane: Plane, names: tuple[str, str], lines: tuple[Line, Line], level: float) -> _Pair:
    why = [said for line, name in zip(lines, names, strict=True) if (said := _why(plane, line, name, level))]
    slopes = [slope(plane.points[line], level) for line in lines if len(line) > 1]
    if not slopes:
        why = [_single(plane, line, name) for line, name in zip(lines, names, strict=True)]
    if why:
        return _Pair(plane, names, level, None, math.nan, "; ".join(why))
    sides = tuple(reading(plane.points, line, level, slopes[0]) for line in lines)
    return _Pair(plane, names, level, (sides[0], sides[1]), _possible(plane, lines, level))


def _level(plane: Plane, one: Line, other: Line) -> float:
    """Return the highest level of learning that two methods reach with 95 %; that of one which has one configuration.

    Where no level is so sure, the middle of what both reach: the lower of two maxima is missed by half of all draws.
    """
    single = [line[0] for line in (one, other) if len(line) == 1]
    if single:
        return float(plane.points[single[0], 0])
    reached, sure = plane.points[:, 0], float(special.ndtri(LEVEL)) * plane.errors
    bottom, top = _common(reached + sure, one, other)[0], _common(reached - sure, one, other)[1]
    return top if top >= bottom else sum(_common(reached, one, other)) / 2


def _common(reached: Array, one: Line, other: Line) -> tuple[float, float]:
    """Return the ends of what two lines both reach."""
    return float(max(reached[one[0]], reached[other[0]])), float(min(reached[one[-1]], reached[other[-1]]))


def _why(plane: Plane, line: Line, name: str, level: float) -> str:
    """Return why a method has no reading at a level, empty where it has one."""
    reached = plane.points[line, 0]
    if len(line) == 1:
        return "" if math.isclose(reached[0], level, rel_tol=1e-9) else _single(plane, line, name)
    if reached[0] <= level <= reached[-1]:
        return ""
    low, high = sorted((reached * plane.sign)[[0, -1]])
    return f"{name} reaches {low:.3g} to {high:.3g}, not {level * plane.sign:.3g}"


def _single(plane: Plane, line: Line, name: str) -> str:
    if len(line) > 1:
        return ""
    at = plane.points[line[0], 0] * plane.sign
    return f"{name} is at its best with one configuration, at {at:.3g}: no line to read from"


def _segment(x: Array, level: float) -> tuple[int, int]:
    """Return the two configurations next to a level, of those in order of their learning."""
    right = int(np.clip((x < level).sum(), 1, len(x) - 1))
    return right - 1, right


def slope(points: Array, level: float) -> float:
    """Return how much more is forgotten for what more is learned at a level, of points in order of their learning."""
    left, right = _segment(points[:, 0], level)
    along, up = points[right] - points[left]
    return float(up / along) if along > 0 else 0.0


def reading(points: Array, line: Line, level: float, beside: float) -> Reading:
    """Return the forgetting of a line at a level, `points` of shape ``(configurations, 2)``.

    A line of one configuration is read at that one's own learning, which moves the other line's reading along its slope
    `beside`.
    """
    x, weights = points[line, 0], np.zeros(2 * len(points))
    ends = [(0, 1.0)]
    if len(line) > 1:
        left, right = _segment(x, level)
        share = (level - x[left]) / (x[right] - x[left]) if x[right] > x[left] else 0.0
        ends, beside = [(left, 1 - share), (right, share)], slope(points[line], level)
    for at, share in ends:
        weights[line[at]], weights[len(points) + line[at]] = -beside * share, share
    return Reading(float(sum(share * points[line[at], 1] for at, share in ends)), weights)


def _possible(plane: Plane, lines: tuple[Line, Line], level: float) -> float:
    """Return how surely lines reach a level; where it is a single configuration's own, its error counts too."""
    single = [line[0] for line in lines if len(line) == 1]
    found = [1.0]
    for end, sign in ((line[at], sign) for line in lines if len(line) > 1 for at, sign in ((0, -1.0), (-1, 1.0))):
        weights = np.zeros(2 * len(plane.points))
        weights[[end, *single]] = 1.0, *(-1.0 for _ in single)
        error = math.sqrt(max(0.0, float(weights @ plane.joint.covariance @ weights)))
        beyond = sign * (plane.points[end, 0] - level)
        found.append(float(special.ndtr(beyond / error)) if error > 0 else float(beyond >= 0))
    return min(found)


def _judged(pairs: Sequence[_Pair], margin: float) -> Iterator[Equal]:
    """Yield the readings and the verdicts of pairs that have some."""
    of_plane = [list(some) for _, some in itertools.groupby(pairs, key=lambda pair: id(pair.plane))]
    parts = [_contrast(some) for some in of_plane]
    whole, margins = family(parts), np.full(len(pairs), margin)
    lacking = [one for some, part in zip(of_plane, parts, strict=True) for one in _needed(some, part, whole, margin)]
    results = verdicts(whole, margins, np.zeros(len(pairs), dtype=bool))
    numbers = zip(*(column.tolist() for column in (whole.values, *whole.intervals(), whole.p())), strict=True)
    for pair, result, row, more in zip(pairs, results, numbers, lacking, strict=True):
        yield _said(pair, result, row, f"{more} for {margin:.2g}")


def _contrast(pairs: list[_Pair]) -> Contrasts:
    plane = pairs[0].plane
    sides = [pair.sides for pair in pairs if pair.sides is not None]
    weights = np.stack([one.weights - other.weights for one, other in sides])
    values = np.array([one.value - other.value for one, other in sides])
    return combined(plane.joint, weights, values, min(plane.learned[0].units, plane.forgot[0].units))


def _needed(pairs: list[_Pair], part: Contrasts, whole: Family, margin: float) -> list[Needed]:
    seeds = min(one.estimate.seeds for one in pairs[0].plane.forgot)
    return needed(part, np.full(len(pairs), float(seeds)), np.full(len(pairs), margin), whole.tail)


def _said(pair: _Pair, result: Verdict, row: tuple[float, float, float, float], lacking: str) -> Equal:
    """Return a reading with its verdict: who forgets less is said where both methods surely reach the level."""
    assert pair.sides is not None
    first, second = pair.names
    at, unsure = f"at {pair.learning:.3g}", pair.possible < LEVEL - 1e-6
    words = {
        Verdict.better: f"{first} forgets less than {second} {at}",
        Verdict.worse: f"{second} forgets less than {first} {at}",
        Verdict.equivalent: f"{first} and {second} forget equally {at}",
        Verdict.undecided: f"undecided {at}; {lacking}",
    }
    if unsure:
        result, said = Verdict.undecided, f"undecided {at}, which both reach with {pair.possible:.0%} only"
    else:
        said = words[result]
    sides = pair.sides[0].value, pair.sides[1].value
    return Equal(pair.plane.where, first, second, pair.learning, *sides, *row, pair.possible, str(result), said)


def _unknown(pair: _Pair) -> Equal:
    first, second = pair.names
    none = dict.fromkeys(("first_forgetting", "second_forgetting", "difference", "low", "high", "p_family"), math.nan)
    facts = {"where": pair.plane.where, "learning": pair.learning, "possible": math.nan}
    return Equal(first=first, second=second, result="", verdict=pair.why, **none, **facts)  # type: ignore[arg-type]
