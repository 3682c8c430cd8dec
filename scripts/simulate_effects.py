"""Simulate what the statistics of comparisons promise: coverage, half-width, power, errors of families.

    python scripts/simulate_effects.py 1000      # trials a row; about 90 s a row at 1000 on one core

Twelve configurations answer the same 300 items at several seeds; one is better by 9 points, one may be unstable. Each
row says what the variance of a configuration's own seeds gives, and what the moderated one does.
"""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
from scipy import special

from analysis.effects.estimates import drawn_items, estimates, over_seeds, resampled
from analysis.effects.families import Family, contrasts, family
from analysis.effects.variance import Array
from analysis.effects.verdicts import Verdict, verdicts
from analysis.records.metrics import mean

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "analysis" / "effects"))
from simulated_answers import simulated, spreads

COUNT, ITEMS, DRAWS = 12, 300, 300
PAIRS = list(itertools.combinations(range(COUNT), 2))
BETTER, UNSTABLE = 1, 0
SHIFT = 0.365
ROWS = [
    (2, "unequal", 0.15),
    (2, "equal", 0.05),
    (3, "unequal", 0.15),
    (3, "equal", 0.05),
    (5, "unequal", 0.15),
    (5, "equal", 0.05),
    (2, "unstable", 0.05),
    (3, "unstable", 0.05),
    (5, "unstable", 0.05),
]
"""Seeds, how their spreads differ between configurations, and their middle in probits: .1 is 3 points."""


def families(made: list[Array], trial: int) -> tuple[Family, Family]:
    """Return the family of all pairs by each configuration's own variance, and by moderated ones."""
    weights = drawn_items(ITEMS, DRAWS, trial)
    drawn = [resampled(one[..., None], mean, weights) for one in made]
    alone = [over_seeds(one.scores, one.draws) for one in drawn]
    both = alone, estimates(drawn, (0.0, 1.0), ITEMS)
    own, moderated = (family([contrasts(one, PAIRS, ITEMS, graded=True)], 1000) for one in both)
    return own, moderated


def measured(found: Family, pairs: Array) -> dict[str, Array]:
    """Return, of pairs without a difference and of those with the better one, what an interval and a p-value did."""
    reach = found.errors * -special.stdtrit(found.freedom, 0.025)
    null, unstable = ~(pairs == BETTER).any(1), (pairs == UNSTABLE).any(1)
    covered = np.abs(found.values) <= reach
    return {
        "coverage": covered[null].mean(),
        "of the unstable one's": covered[null & unstable].mean(),
        "half-width": np.median(reach[null]),
        "power at .05/14": (np.maximum(14 * found.alone(), found.by_own_seeds()) < 0.05)[~null].mean(),
        "power in the family": (found.p() < 0.05)[~null].mean(),
        "false in a family": (found.p()[null] < 0.05).any(),
    }


def row(seeds: int, kind: str, middle: float, trials: int) -> str:
    """Return a row of the table: each number before → after."""
    rng, pairs = np.random.default_rng(seeds), np.array(PAIRS)
    shift = np.where(np.arange(COUNT) == BETTER, SHIFT, 0.0)
    told = [
        [measured(one, pairs) for one in families(simulated(rng, spreads(rng, kind, middle), seeds, shift), trial)]
        for trial in range(trials)
    ]
    cells = [" → ".join(f"{np.mean([one[k][name] for one in told]):.3f}" for k in (0, 1)) for name in told[0][0]]
    return f"| {seeds}, {kind} | {' | '.join(cells)} |"


def equivalence(seeds: int, trials: int) -> str:
    """Return how often a difference of exactly the margin is called equivalent in a family, and how often none is."""
    rng, pairs, scale = np.random.default_rng(0), np.array(PAIRS), math.sqrt(0.36 + 0.09 + 0.49 + 0.05**2)
    shift = np.where(np.arange(COUNT) < COUNT // 2, 0.0, SHIFT)
    margin = float(special.ndtr((0.8 + SHIFT) / scale) - special.ndtr(0.8 / scale))
    apart = (pairs[:, 0] < COUNT // 2) != (pairs[:, 1] < COUNT // 2)
    wrong, right = [], []
    for trial in range(trials):
        found = families(simulated(rng, np.full(COUNT, 0.05), seeds, shift), trial)[1]
        said = np.array(verdicts(found, np.full(len(pairs), margin), np.ones(len(pairs), dtype=bool)))
        wrong.append((said[apart] == Verdict.equivalent).any())
        right.append((said[~apart] == Verdict.equivalent).mean())
    said = f"equivalent: false in {np.mean(wrong):.3f} of families, true {np.mean(right):.3f} of pairs"
    return f"{seeds} seeds, margin {margin:.3f}: {said}"


def main(trials: int) -> None:
    """Print the tables."""
    names = ["coverage", "of the unstable one's pairs", "half-width", "power at .05/14", "power in the family"]
    print("| seeds, spread | " + " | ".join([*names, "false in a family"]) + " |\n" + "|---" * 7 + "|")
    for seeds, kind, middle in ROWS:
        print(row(seeds, kind, middle, trials), flush=True)
    for seeds in (2, 3, 5):
        print(equivalence(seeds, trials), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
