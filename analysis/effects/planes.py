"""What the configurations of a block learned and what they forgot, with what is uncertain in both together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.effects.blocks import Block, Effect, Effects
from analysis.effects.families import Joint, jointly
from analysis.effects.outcomes import FORGETTING, LEARNING
from analysis.effects.variance import Array

SHRUNK = 3.0
"""Degrees of freedom of no correlation that the one between a run's learning and forgetting is shrunk by."""


@dataclass(frozen=True)
class Plane:
    """The configurations of a block, by what they learned and what they forgot."""

    where: str
    learned: list[Effect]
    forgot: list[Effect]
    points: Array
    """Shape ``(configurations, 2)``: (learning, forgetting), turned so that more of each is better and worse."""
    joint: Joint
    """Of all learning, then of all forgetting, turned alike."""

    @property
    def sign(self) -> float:
        """Return −1 where a lower score is better, else 1."""
        return 1.0 if self.learned[0].higher_is_better else -1.0

    @property
    def errors(self) -> Array:
        """Return the standard errors of what was learned, shape ``(configurations,)``."""
        return np.sqrt(np.diag(self.joint.covariance)[: len(self.points)])

    def fronts(self) -> dict[str, list[int]]:
        """Return each method's configurations that none of the same method beats, in order of their learning.

        A configuration that came apart is no part of what the method can do.
        """
        names = [str(one.runs["method"].iloc[0]) for one in self.learned]
        own = {name: [k for k, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
        return {name: self._front(some) for name, some in own.items()}

    def _front(self, some: list[int]) -> list[int]:
        best = optimal(self.points[some])
        return sorted((k for k, kept in zip(some, best, strict=True) if kept), key=lambda k: float(self.points[k, 0]))


def planes(found: Effects) -> Iterator[Plane]:
    """Yield the learning and forgetting of each block that has both, of one probe."""
    for block in found.blocks:
        sets = block.sets(FORGETTING)
        if len(sets) > 1:
            block.say(f"{block.where or 'runs'}: forgetting was measured by different probes or versions of one")
        elif sets:
            yield from _plane(block, sets[0])


def _plane(block: Block, forgot: list[Effect]) -> Iterator[Plane]:
    learned = block.effects(LEARNING)
    known = [one for one in forgot if one.label in learned]
    if not known:
        return
    both = [learned[one.label] for one in known], known
    values = np.array([[one.estimate.value for one in some] for some in both])
    signs = [1.0 if both[0][0].higher_is_better else -1.0, -1.0 if both[1][0].higher_is_better else 1.0]
    joint = jointly(*([e.estimate for e in some] for some in both), correlation=correlation(*both))
    turned = joint.turned(np.repeat(signs, len(known)))
    yield Plane(block.where, *both, values.T * signs + 0.0, turned)


def correlation(learned: list[Effect], forgot: list[Effect]) -> float:
    """Return how a seed's learning and forgetting go together, pooled within the configurations of a block.

    r = Σ_c Σ_s u_cs v_cs / √(Σu² Σv²) of the deviations u, v from each configuration's means in units of its moderated
    spread, times ν/(ν + 3): few seeds are no proof of a correlation.
    """
    parts, freedom = [], 0
    for one, other in zip(learned, forgot, strict=True):
        seeds = dict(zip(one.runs["folder"], one.scores, strict=True))
        pairs = [(seeds[name], y) for name, y in zip(other.runs["folder"], other.scores, strict=True) if name in seeds]
        spread = one.estimate.outer * one.estimate.seeds, other.estimate.outer * other.estimate.seeds
        if len(pairs) > 1 and min(spread) > 0:
            apart = np.array(pairs) - np.mean(pairs, axis=0)
            parts.append(apart / np.sqrt(spread))
            freedom += len(pairs) - 1
    if not parts:
        return 0.0
    u, v = np.concatenate(parts).T
    size = math.sqrt(float(u @ u) * float(v @ v))
    return float(u @ v) / size * freedom / (freedom + SHRUNK) if size > 0 else 0.0


def optimal(points: Array) -> NDArray[np.bool_]:
    """Return which points no other beats: shape ``(…, points, 2)`` of (learning, forgetting) → ``(…, points)``.

    One beats another with as much learning and as little forgetting, and more or less of one of them.
    """
    one, other = points[..., :, None, :], points[..., None, :, :]
    no_worse = (other[..., 0] >= one[..., 0]) & (other[..., 1] <= one[..., 1])
    differs = (other != one).any(-1)
    return ~(no_worse & differs).any(-1)
