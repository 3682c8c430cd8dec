"""Rank correlations against scipy, against residuals of a regression, and in simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.effects.correlations import spearman


def drawn(n: int, seed: int, of_held: float = 1.0) -> pd.DataFrame:
    """Return x and y that have nothing in common but the held number."""
    rng = np.random.default_rng(seed)
    held = rng.standard_normal(n)
    x, y = (of_held * held + rng.standard_normal(n) for _ in range(2))
    return pd.DataFrame({"x": x, "y": y, "held": held})


def test_spearman_is_scipys_with_ties_and_missing_rows() -> None:
    rows = drawn(20, 0).round(0)
    rows.loc[3, "x"] = math.nan
    found, known = spearman(rows["x"], rows["y"]), rows.dropna()
    theirs = stats.spearmanr(known["x"], known["y"])
    assert (found.rho, found.p, found.n) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue), 19)


def test_the_partial_one_is_that_of_the_residuals_of_ranks() -> None:
    rows = drawn(30, 1)
    ranks = rows.rank()
    design = np.column_stack([np.ones(30), ranks["held"]])
    rest = [ranks[name] - design @ np.linalg.lstsq(design, ranks[name], rcond=None)[0] for name in "xy"]
    assert spearman(rows["x"], rows["y"], rows["held"]).rho == pytest.approx(np.corrcoef(*rest)[0, 1])


def test_what_the_third_number_explains_is_gone_when_it_is_held() -> None:
    """x and y follow one number: related beyond doubt, and unrelated at constant third number in 95 of 100."""
    found = [drawn(40, seed, of_held=2.0) for seed in range(200)]
    bare = [spearman(rows["x"], rows["y"]) for rows in found]
    held = [spearman(rows["x"], rows["y"], rows["held"]) for rows in found]
    assert np.mean([one.p < 0.05 for one in bare]) > 0.99
    assert np.mean([one.p < 0.05 for one in held]) < 0.10
    assert 0.90 < np.mean([one.low < 0 < one.high for one in held]) < 0.99


def test_too_few_or_constant_has_none() -> None:
    one = pd.Series([1.0, 2.0, 3.0])
    assert str(spearman(one, pd.Series([5.0, 5.0, 5.0]))) == "no ρ, n = 3"
    assert math.isnan(spearman(one[:2], one[:2]).rho)
    assert math.isnan(spearman(one, one, one).rho)
    assert str(spearman(one, -one)) == "ρ = −1.00, p = .333, n = 3"
