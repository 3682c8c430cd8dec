"""Learning against forgetting: which configurations no other beats in both, how surely, and what equal learning costs.

Forgetting is turned so that more is worse, whatever the probe's metric: a loss that rose, an accuracy that fell. It
may be negative: a run can gain.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.answers import answers, draws_of
from analysis.conditions import resumed
from analysis.configurations import blocks, cells, configured
from analysis.effects.estimates import LEVEL, from_intervals
from analysis.effects.variance import Array

ROWS = ["where", "configuration", "method", "learning", "forgetting", "optimal", "frequency", "seeds", "note"]


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
    """The 95 % interval of `difference`, over the draws in which both methods reach `learning`."""
    possible: float
    """The share of those draws."""
    verdict: str


class Pareto(NamedTuple):
    """A row a configuration, what methods forget at equal learning, and what could not be said."""

    rows: pd.DataFrame
    """Columns: where, configuration, method, learning, forgetting (more is worse), optimal, frequency, seeds, note."""
    equal: pd.DataFrame
    """A row two methods; columns are the fields of :class:`Equal`."""
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """A configuration's learning and forgetting, and both in each draw of items and seeds."""

    where: str
    label: str
    method: str
    seeds: int
    note: str
    """Which of its runs were resumed under other conditions."""
    value: Array
    """(learning, forgetting), each turned so that more learning is better and more forgetting is worse."""
    draws: Array
    """Shape ``(draws, 2)``."""


def pareto(table: pd.DataFrame, learning: float | None = None) -> Pareto:
    """Return the Pareto-optimal configurations among runs that are done and had forgetting measured.

    The frequency is the share of draws of items and seeds in which no other configuration learns at least as much and
    forgets at most as much. Items are drawn alike for all configurations; seeds by each one's own spread, learning and
    forgetting of a run together. `learning` is the score at which forgetting is compared, the highest that every
    method reaches unless given.
    """
    runs = configured(table[(table["status"] == "done") & ~table["foreign"] & table["forgetting"].notna()])
    problems: list[str] = []
    rows, equal = [], []
    for where, block in blocks(runs):
        if block[["forgetting_name", "forgetting_version"]].drop_duplicates().shape[0] > 1:
            problems.append(f"{where or 'runs'}: forgetting was measured by different probes or versions of one")
            continue
        better = bool(block["higher_is_better"].iloc[0])
        points = list(_points(where, block, problems))
        rows += _rows(points)
        equal += list(_equal(points, learning if learning is None or better else -learning, better))
    frames = pd.DataFrame(rows, columns=ROWS), pd.DataFrame(equal, columns=list(Equal._fields))
    return Pareto(*frames, tuple(problems))


def _points(where: str, block: pd.DataFrame, problems: list[str]) -> Iterator[Point]:
    groups = list(cells(block))
    learned = {one.label: one for one in answers(groups, problems)}
    signs = np.array([1.0 if block[n].iloc[0] else -1.0 for n in ("higher_is_better", "forgetting_higher_is_better")])
    signs[1] *= -1  # an accuracy that fell by .1 is forgetting of .1
    for number, (label, runs) in enumerate(groups):
        if label not in learned or len(learned[label].rows) < len(runs):
            continue
        change, low, high = (runs[f"forgetting{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        draws = draws_of(len(learned[label].ids))
        estimates = learned[label].estimate, from_intervals(change, low, high, draws, number)
        values = runs[["score", "forgetting"]].to_numpy(dtype=float)
        items = np.stack([one.resampled for one in estimates], axis=1)
        seeds = between_seeds(values, len(items), number)
        middle = np.array([one.value for one in estimates])
        facts = where, label, str(runs["method"].iloc[0]), len(runs), resumed(runs)
        yield Point(*facts, signs * middle + 0.0, signs * (items + seeds))


def between_seeds(values: Array, draws: int, seed: int) -> Array:
    """Return draws of how far the mean over seeds may be off, shape ``(draws, outcomes)``; zeros for one seed.

    Multivariate t with seeds − 1 degrees of freedom and the seeds' own covariance: normal multiples of the seeds'
    deviations have that covariance, and one χ² divides all outcomes of a draw.
    """
    count = len(values)
    if count == 1:
        return np.zeros((draws, values.shape[1]))
    rng = np.random.default_rng([count, seed])
    apart = (values - values.mean(0)) / np.sqrt(count * (count - 1))
    spread = rng.chisquare(count - 1, (draws, 1)) / (count - 1)
    found: Array = rng.standard_normal((draws, count)) @ apart / np.sqrt(spread)
    return found


def optimal(points: Array) -> NDArray[np.bool_]:
    """Return which points no other beats: shape ``(…, points, 2)`` of (learning, forgetting) → ``(…, points)``.

    One beats another with as much learning and as little forgetting, and more or less of one of them.
    """
    one, other = points[..., :, None, :], points[..., None, :, :]
    no_worse = (other[..., 0] >= one[..., 0]) & (other[..., 1] <= one[..., 1])
    differs = (other != one).any(-1)
    return ~(no_worse & differs).any(-1)


def _rows(points: list[Point]) -> list[dict[str, object]]:
    if not points:
        return []
    best = optimal(np.stack([point.value for point in points]))
    often = optimal(np.stack([point.draws for point in points], axis=1)).mean(0)
    return [
        {
            "where": point.where,
            "configuration": point.label,
            "method": point.method,
            "learning": point.value[0],
            "forgetting": point.value[1],
            "optimal": bool(is_best),
            "frequency": float(share),
            "seeds": point.seeds,
            "note": point.note,
        }
        for point, is_best, share in zip(points, best, often, strict=True)
    ]


def _equal(points: list[Point], learning: float | None, better: bool) -> Iterator[Equal]:
    """Yield what every two methods forget at the same learning, each on the line between its best configurations."""
    methods = dict.fromkeys(point.method for point in points)
    pairs = list(itertools.combinations([_front([p for p in points if p.method == name]) for name in methods], 2))
    for one, other in pairs:
        level = min(max(p.value[0] for p in some) for some in (one, other)) if learning is None else learning
        yield _at_equal_learning(one, other, level, better, len(pairs))


def _front(points: list[Point]) -> list[Point]:
    """Return those that none of the same method beats: a run that came apart is no part of what the method can do."""
    return [
        point for point, is_best in zip(points, optimal(np.stack([p.value for p in points])), strict=True) if is_best
    ]


def _at_equal_learning(one: list[Point], other: list[Point], level: float, better: bool, family: int) -> Equal:
    found = [float(at_level(np.stack([p.value for p in some])[None], level)[0]) for some in (one, other)]
    drawn = [at_level(np.stack([p.draws for p in some], axis=1), level) for some in (one, other)]
    apart = drawn[0] - drawn[1]
    known = apart[np.isfinite(apart)] if np.isfinite(found).all() else np.empty(0)
    low, high = _tails(known, 1 - LEVEL)
    shown = level if better else -level
    names = one[0].method, other[0].method
    verdict = _verdict(names, _tails(known, (1 - LEVEL) / family), len(known) / len(apart), shown)
    if not len(known):
        sides = zip((one, other), found, strict=True)
        short = [_why(some, level, better) for some, value in sides if np.isnan(value) or len(some) == 1]
        verdict = "; ".join(short) or f"both reach {shown:.3g} in no draw of items and seeds"
    difference, possible = found[0] - found[1], len(known) / len(apart)
    return Equal(one[0].where, names[0], names[1], shown, found[0], found[1], difference, low, high, possible, verdict)


def _tails(known: Array, alpha: float) -> tuple[float, float]:
    low, high = np.quantile(known, [alpha / 2, 1 - alpha / 2]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def _verdict(names: tuple[str, str], tails: tuple[float, float], possible: float, level: float) -> str:
    """Say who forgets less, where the interval at Bonferroni's level of all pairs does, in nearly every draw."""
    if possible < LEVEL or tails[0] <= 0 <= tails[1]:
        return f"no difference shown at {level:.3g}"
    less, more = names if tails[1] < 0 else names[::-1]
    return f"{less} forgets less than {more} at {level:.3g}"


def _why(some: list[Point], level: float, better: bool) -> str:
    reached = sorted((p.value[0] if better else -p.value[0]) for p in some)
    if len(some) == 1:
        return f"{some[0].method} is at its best with one configuration, at {reached[0]:.3g}: no line to read from"
    said = f"{some[0].method} reaches {reached[0]:.3g} to {reached[-1]:.3g}"
    return f"{said}, not {level if better else -level:.3g}"


def at_level(points: Array, level: float) -> Array:
    """Return the forgetting at a level of learning, shape ``(draws, configurations, 2)`` → ``(draws,)``.

    Linear between the two configurations next to the level, of those in order of their learning; NaN where it lies
    outside of what they reach: nothing is extrapolated.
    """
    order = np.argsort(points[..., 0], axis=1)
    x, y = (np.take_along_axis(points[..., i], order, axis=1) for i in (0, 1))
    right = np.clip((x < level).sum(1), 1, max(1, x.shape[1] - 1))
    if x.shape[1] == 1:
        alone: Array = np.where(x[:, 0] == level, y[:, 0], np.nan)
        return alone
    rows = np.arange(len(x))
    x0, x1, y0, y1 = x[rows, right - 1], x[rows, right], y[rows, right - 1], y[rows, right]
    share = np.divide(level - x0, x1 - x0, out=np.zeros_like(x0), where=x1 > x0)
    inside = (x[:, 0] <= level) & (level <= x[:, -1])
    found: Array = np.where(inside, y0 + share * (y1 - y0), np.nan)
    return found
