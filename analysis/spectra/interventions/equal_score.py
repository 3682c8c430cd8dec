"""Mitigations at equal task score: what is still forgotten where each has cost the task as much.

A mitigation is walked from the tuned model on, λ = 1, until the task's score has fallen by a given cost c:

    F(c) = L(λ_c) - L_base,   λ_c the first λ with a(λ) = a_1 - c

with L a probe's headline metric, turned so that more is more forgotten. Between two measured models score and
forgetting are read on a straight line, as of a mixture that answers by one or the other; a walk that never costs so
much is read at its end. Every mitigation less ΔW shrunk as a whole (WiSE-FT, arXiv 2109.01903), all costs and probes,
is one family with simultaneous intervals; the task's items are drawn once for all of it, and so are each probe's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.effects.estimates import Estimate, drawn_items
from analysis.effects.families import contrasts, family
from analysis.effects.variance import Array
from analysis.records.metrics import mean
from analysis.spectra.interventions.vectors import SHRUNK
from analysis.spectra.interventions.verdict import UNCHANGED, Found, Reading
from harness.forgetting.base import Items

LESS, MORE, UNDECIDED = "forgets less", "forgets more", "undecided"
STREAM = 1
"""Of the probes' draws, which are not the task's."""


@dataclass(frozen=True)
class Left:
    """What is still forgotten where a mitigation has cost the task so much, beside ΔW shrunk as a whole."""

    label: str
    metric: str
    cost: float
    """How far the task's score has fallen."""
    curve: str
    left: float
    """L - L_base: 0 is as the untouched model, more is more forgotten."""
    difference: float
    """Less what is left by shrinking ΔW; 0 of that itself."""
    low: float
    high: float
    word: str
    """`LESS`, `MORE` or `UNDECIDED`; empty of ΔW shrunk itself."""


@dataclass(frozen=True)
class Model:
    """A measured model: each array holds the value of all items, then that of every draw of them."""

    score: Array
    forgotten: Array


def walked(models: Sequence[Model], cost: float) -> Array:
    """Return what is forgotten where the score has fallen by `cost`, walking from the first model to the last."""
    target = models[0].score - cost
    found, walking = models[-1].forgotten.copy(), np.ones(len(target), dtype=bool)
    for one, other in itertools.pairwise(models):
        crossed = walking & (other.score < target)
        share = np.divide(one.score - target, one.score - other.score, out=np.zeros_like(target), where=crossed)
        found = np.where(crossed, one.forgotten + share * (other.forgotten - one.forgotten), found)
        walking &= ~crossed
    return np.asarray(found)


def at_equal_score(
    readings: Sequence[Reading], base: Items, found: Found, split: str, costs: Sequence[float]
) -> list[Left]:
    """Return what each mitigation leaves forgotten at each cost, of each probe; nothing where ΔW was not shrunk.

    `base` has the probes' answers of the untouched model by the names that `found` has.
    """
    curves = _walks(found)
    if SHRUNK not in curves or len(curves) < 2 or not readings:
        return []
    scores = _scores(found, split)
    parts, rows = [], []
    for reading in readings:
        units, walks = _forgotten(reading, base, found, scores, curves)
        for cost in costs:
            estimates = [_estimate(walked(walks[curve], cost)) for curve in curves]
            others = [(at, list(curves).index(SHRUNK)) for at, curve in enumerate(curves) if curve != SHRUNK]
            parts.append(contrasts(estimates, others, min(units, len(found[UNCHANGED, 1.0][split]))))
            rows.append((reading, cost, {name: one.value for name, one in zip(curves, estimates, strict=True)}))
    joint = family(parts)
    numbers = iter(zip(joint.values.tolist(), *(ends.tolist() for ends in joint.intervals()), strict=True))
    return [one for row in rows for one in _lefts(*row, numbers)]


def _walks(found: Found) -> dict[str, list[float]]:
    """Return curve → its places below 1, in falling order: the walk away from the tuned model."""
    names = dict.fromkeys(curve for curve, _ in found if curve != UNCHANGED)
    places = {curve: sorted((at for name, at in found if name == curve and at < 1), reverse=True) for curve in names}
    return {curve: some for curve, some in places.items() if some}


def _scores(found: Found, split: str) -> dict[tuple[str, float], Array]:
    items = {place: np.array([[one.score] for one in answers[split]]) for place, answers in found.items()}
    weights = _weights(len(items[UNCHANGED, 1.0]), 0)
    return {place: mean(rows, weights) for place, rows in items.items()}


def _weights(items: int, stream: int) -> Array:
    """Return all items once, then draws of them."""
    return np.vstack([np.ones((1, items)), drawn_items(items, seed=stream)])


def _forgotten(
    reading: Reading,
    base: Items,
    found: Found,
    scores: Mapping[tuple[str, float], Array],
    curves: Mapping[str, Sequence[float]],
) -> tuple[int, dict[str, list[Model]]]:
    """Return how many items a probe has, and each walk's models, the tuned one first."""
    before = reading.rows(base)
    weights = _weights(len(before), STREAM)
    untouched = reading.sign * reading.statistic(before, weights)

    def model(curve: str, at: float) -> Model:
        rows = reading.rows(found[curve, at])
        return Model(scores[curve, at], reading.sign * reading.statistic(rows, weights) - untouched)

    tuned = model(UNCHANGED, 1.0)
    return len(before), {curve: [tuned, *(model(curve, at) for at in places)] for curve, places in curves.items()}


def _estimate(values: Array) -> Estimate:
    return Estimate(float(values[0]), values[1:] - values[0])


def _lefts(
    reading: Reading, cost: float, lefts: Mapping[str, float], numbers: Iterator[tuple[float, float, float]]
) -> Iterator[Left]:
    for curve, left in lefts.items():
        difference, low, high = (0.0, math.nan, math.nan) if curve == SHRUNK else next(numbers)
        word = "" if curve == SHRUNK else LESS if high < 0 else MORE if low > 0 else UNDECIDED
        yield Left(reading.label, reading.metric, cost, curve, left, difference, low, high, word)
