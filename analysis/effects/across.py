"""Across tasks and models: mean ranks, the interquartile mean, and the probability of improvement.

The estimates of Agarwal et al. (2021, NeurIPS, arXiv 2108.13264), as their library rliable makes them: seeds are drawn
with replacement within each task (stratified bootstrap), and no metric of one kind is averaged with one of another.
Ranks and probabilities of improvement compare within each task; the interquartile mean is of normalised scores. Of two
or three seeds such a bootstrap is too narrow: it says what these runs show, over tasks, and no more.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.effects.blocks import Block, Effects
from analysis.effects.estimates import DRAWS, LEVEL
from analysis.effects.outcomes import LEARNING
from analysis.effects.variance import Array
from analysis.effects.verdicts import Verdict

Scores = list[list[Array]]
"""Task → configuration → what each seed scored, shape ``(seeds,)`` or ``(draws, seeds)``, higher is better."""


@dataclass(frozen=True)
class Across:
    """What holds over several tasks and models, of the configurations that all of them have."""

    rows: pd.DataFrame
    """Columns: configuration, tasks, mean_rank (1 is best), iqm (NaN where a score has no best value), each with low
    and high, 95 %."""
    pairs: pd.DataFrame
    """Columns: first, second, probability that the first scores higher, low, high, result (better, worse or
    undecided)."""


def across(found: Effects, draws: int = DRAWS) -> Across | None:
    """Return what holds over all blocks, None where fewer than two of them share two configurations."""
    scored = [block for block in found.blocks if len(block.effects(LEARNING)) > 1]
    names = [name for name in _labels(scored) if all(name in block.effects(LEARNING) for block in scored)]
    if len(scored) < 2 or len(names) < 2:
        return None
    order = np.argsort(mean_ranks(_scores(scored, names)), kind="stable")
    names = [names[k] for k in order]  # the best first
    scores = _scores(scored, names)
    normal = [_normalised(block, some, names) for block, some in zip(scored, scores, strict=True)]
    rng = np.random.default_rng(0)
    drawn = _drawn(rng, scores, draws)
    ranks = np.stack([mean_ranks(scores), *_ends(mean_ranks(drawn))])
    middle = np.stack([_middles(normal), *_ends(_middles(_drawn(rng, normal, draws)))])
    columns = _named("mean_rank", ranks) | _named("iqm", middle)
    rows = pd.DataFrame({"configuration": names, "tasks": len(scored)} | columns)
    return Across(rows, _pairs(names, scores, drawn))


def _labels(scored: list[Block]) -> list[str]:
    return list(dict.fromkeys(name for block in scored for name in block.effects(LEARNING)))


def _scores(scored: list[Block], names: list[str]) -> Scores:
    effects = [[block.effects(LEARNING)[name] for name in names] for block in scored]
    return [[one.scores if one.higher_is_better else -one.scores for one in some] for some in effects]


def _normalised(block: Block, scores: list[Array], names: list[str]) -> list[Array]:
    """Return (x − base)/(best − base): the share of the way from the untouched model to a perfect score."""
    effects = [block.effects(LEARNING)[name] for name in names]
    sign = 1.0 if effects[0].higher_is_better else -1.0
    best = sign * effects[0].bounds[1 if sign > 0 else 0]
    base = sign * float(np.mean([one.runs["base"].astype("float64").mean() for one in effects]))
    known = np.isfinite(best - base) and best > base
    return [(one - base) / (best - base) if known else np.full(len(one), np.nan) for one in scores]


def _drawn(rng: np.random.Generator, scores: Scores, draws: int) -> Scores:
    """Return seeds drawn with replacement within each task and configuration, shape ``(draws, seeds)`` each."""
    return [[one[rng.integers(len(one), size=(draws, len(one)))] for one in some] for some in scores]


def mean_ranks(scores: Scores) -> Array:
    """Return each configuration's rank by its mean over seeds, 1 the best, averaged over tasks; ties share.

    Shape ``(configurations,)``, of drawn scores ``(draws, configurations)``.
    """
    means = [np.stack([one.mean(-1) for one in some], axis=-1) for some in scores]
    return np.asarray(np.mean([stats.rankdata(-one, axis=-1) for one in means], axis=0))


def interquartile_mean(values: Array) -> Array:
    """Return the mean of the middle half of all seeds of all tasks, 25 % trimmed at either end, over the last axis."""
    return np.asarray(stats.trim_mean(values, 0.25, axis=-1))


def improvement(scores: Scores, first: int, second: int) -> Array:
    """Return the mean over tasks of P(first > second) + ½ P(equal) of a seed of each: U/(n m) of Mann and Whitney."""
    apart = [some[first][..., :, None] - some[second][..., None, :] for some in scores]
    return np.asarray(np.mean([((one > 0) + 0.5 * (one == 0)).mean((-2, -1)) for one in apart], axis=0))


def _middles(scores: Scores) -> Array:
    return np.stack([interquartile_mean(np.concatenate(some, axis=-1)) for some in zip(*scores, strict=True)], axis=-1)


def _ends(drawn: Array) -> Array:
    """Return the percentiles of draws, shape ``(2, …)``."""
    return np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def _named(name: str, rows: Array) -> dict[str, Array]:
    return {f"{name}{end}": row for end, row in zip(("", "_low", "_high"), rows, strict=True)}


def _pairs(names: list[str], scores: Scores, drawn: Scores) -> pd.DataFrame:
    rows = []
    for first, second in itertools.combinations(range(len(names)), 2):
        low, high = _ends(improvement(drawn, first, second)).tolist()
        result = Verdict.better if low > 0.5 else Verdict.worse if high < 0.5 else Verdict.undecided
        rows.append((names[first], names[second], float(improvement(scores, first, second)), low, high, str(result)))
    return pd.DataFrame(rows, columns=["first", "second", "probability", "low", "high", "result"])
