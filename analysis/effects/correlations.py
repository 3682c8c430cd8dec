"""Rank correlations over configurations, with and without a third number held constant."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.effects.variance import Array

ALONE = 1e-12
"""Below this a correlation is ±1: nothing is left of one number once the other is known."""
LEAST = 4
"""Configurations below which no interval is given: Fisher's needs n - 3 above 0."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ of two numbers over configurations, which count once however many seeds they have."""

    rho: float
    """NaN where there are fewer than 3 configurations or one number never changes."""
    low: float
    high: float
    """95 %, by Fisher's z with the standard error √(1 + ρ²/2) / √(n - 3) of Bonett & Wright (2000)."""
    p: float
    """Two-sided, by Student's t of ρ √((n - 2) / (1 - ρ²)) with n - 2 degrees of freedom, one less if partial."""
    n: int

    def __str__(self) -> str:
        """Return ``ρ = .71 [.20, .92], p = .014, n = 11``."""
        if math.isnan(self.rho):
            return f"no ρ, n = {self.n}"
        ends = f" [{_short(self.low)}, {_short(self.high)}]" if math.isfinite(self.low) else ""
        p = "p < .001" if self.p < 0.001 else f"p = {_short(self.p, 3)}"
        return f"ρ = {_short(self.rho)}{ends}, {p}, n = {self.n}"


def spearman(x: pd.Series[float], y: pd.Series[float], held: pd.Series[float] | None = None) -> Correlation:
    """Return Spearman's ρ of x and y; with `held`, the partial one at constant `held`.

    ρ_xy·z = (ρ_xy - ρ_xz ρ_yz) / √((1 - ρ_xz²)(1 - ρ_yz²)), of ranks. Rows in which one is missing are left out.
    """
    columns = [x, y] if held is None else [x, y, held]
    known = pd.concat([column.astype("float64").reset_index(drop=True) for column in columns], axis=1).dropna()
    n, more = len(known), len(columns) - 2
    if n < 3 + more or (known.nunique() < 2).any():
        return Correlation(math.nan, math.nan, math.nan, math.nan, n)
    ranks = np.corrcoef(known.rank().to_numpy().T)
    rho = float(np.clip(ranks[0, 1] if held is None else _partial(ranks), -1, 1))
    return Correlation(rho, *_interval(rho, n - more), _p(rho, n - more), n)


def _partial(ranks: Array) -> float:
    rest = (1 - ranks[0, 2] ** 2) * (1 - ranks[1, 2] ** 2)
    return float((ranks[0, 1] - ranks[0, 2] * ranks[1, 2]) / math.sqrt(rest)) if rest > ALONE else math.nan


def _interval(rho: float, n: int) -> tuple[float, float]:
    if n < LEAST or 1 - abs(rho) < ALONE:
        return math.nan, math.nan
    half = float(stats.norm.ppf(0.975)) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh([math.atanh(rho) - half, math.atanh(rho) + half]).tolist()
    return low, high


def _p(rho: float, n: int) -> float:
    if 1 - abs(rho) < ALONE:
        return min(1.0, 2 / math.factorial(n))  # of n! orders two are the same or the reverse
    return float(2 * stats.t.sf(abs(rho) * math.sqrt((n - 2) / (1 - rho**2)), n - 2))


def _short(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1).replace("-", "−")
