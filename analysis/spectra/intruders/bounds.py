"""How far a cosine with a base vector can be off, from errors that were measured and not assumed.

With A = W0 W0ᵀ of eigenpairs (t_i, x_i) and computed ones (λ_j, q_j), ‖A - Σ λ_j q_j q_jᵀ‖ ≤ e, a true base vector has
the coordinates z = Qᵀ x_i with

    |z_j| ≤ |f_j| / |λ_j - t_i|,  ‖f‖ ≤ e,  |t_i - λ_i| ≤ e    (Weyl 1912; Davis & Kahan 1970, SIAM J. Numer. Anal. 7)

so for a vector of coordinates c and any radius ρ > e, by Cauchy and Schwarz inside of it and outside,

    |⟨y, x_i⟩| ≤ (Σ_{|λ_j - λ_i| ≤ ρ} c_j²)^½ + e (Σ_{|λ_j - λ_i| > ρ} c_j² / (|λ_j - λ_i| - e)²)^½

and where i is alone within ρ the first term is also reached, but for the part of z that lies elsewhere. Only what y has
near λ_i counts: base vectors of near-equal σ may be turned among themselves, far ones hardly matter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]

PROBES = 4
"""Random vectors by which a norm is measured: a product with 8 would cost twice as much."""
MISSED = 0.004
"""That all of them have less than this along the largest direction has a chance of (.004 √(2/π))⁴ = 1e-10."""
TIMES, LARGE_TIMES = 4, 8
"""Applications of a matrix to a probe: the bound exceeds the norm by (2 / .004)^¼ = 4.7, after eight by 2.2.

Above a side of `LARGE` four more cost about a second at 4096. With four in all, a matrix of side 4096
with the spectrum of a query projection had 7 of 20 vectors left open, which cost a decomposition in double precision.
"""
LARGE = 1024
GROWTH = 4.0
"""From one radius to the next."""


def norm_bound(apply: Callable[[Tensor], Tensor], probes: Float[Tensor, "probes n"], times: int) -> float:
    """Return a bound on ‖T‖ of a symmetric T from standard normal rows, T applied to them again and again.

    ‖T‖^p |g₁| ≤ ‖T^p g‖ with g₁ the part of g along the largest direction (Halko, Martinsson & Tropp 2011, SIAM
    Review 53, section 4.3); false with a chance of 1e-10.
    """
    rows = probes
    for _ in range(times):
        rows = apply(rows)
    return (float(rows.norm(dim=1).max()) / MISSED) ** (1 / times)


def decomposition_errors(
    near: Float[Tensor, "n m"], values: Float[Tensor, " n"], vectors: Float[Tensor, "n n"]
) -> tuple[float, float]:
    """Return e ≥ ‖A - Qᵀ Λ Q‖ with A = W0 W0ᵀ and Q the orthonormal rows nearest to V, and ν ≥ ‖V Vᵀ - I‖.

    Both are measured in double precision by random probes, e on Q = (I - N/2) V with N = V Vᵀ - I, which is orthonormal
    but for ν²; what that leaves is added.
    """
    w, v, s = near.double(), vectors.double(), values.double()
    probes = torch.randn(PROBES, len(v), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(v.device)

    def error(rows: Tensor) -> Tensor:
        inside = nearest(rows @ v.T, v) * s
        return (rows @ w) @ w.T - nearest(inside, v) @ v

    times = LARGE_TIMES if len(v) > LARGE else TIMES
    nu = norm_bound(lambda rows: (rows @ v) @ v.T - rows, probes, times // 2)
    return norm_bound(error, probes, times) + 2 * nu**2 * float(s.max()), nu


def nearest(coordinates: Float[Tensor, "b n"], v: Float[Tensor, "n n"]) -> Float[Tensor, "b n"]:
    """Return coordinates c (I - N/2) = (3 c - c V Vᵀ) / 2: in Q what c = x Vᵀ is in V."""
    return (3 * coordinates - (coordinates @ v) @ v.T) / 2


def cosine_bounds(coordinates: Numbers, values: Numbers, error: float) -> tuple[Numbers, Numbers]:
    """Return bounds on |⟨y, x_i⟩| for each vector y, given by its coordinates (j, n), and each base vector x_i.

    `values` are the n computed eigenvalues, rising, and `error` is e. Both results are (j, n).
    """
    error = max(error, float(np.finfo(float).eps * values[-1]))  # measured as 0, it is still that of a double
    radii = _radii(values, error)
    first = np.searchsorted(values, values - radii[:, None], "left")
    after = np.searchsorted(values, values + radii[:, None], "right")
    sums = np.concatenate([np.zeros((len(coordinates), 1)), np.cumsum(coordinates**2, axis=1)], axis=1)
    inside = np.maximum(sums[:, after] - sums[:, first], 0.0)
    rings = np.diff(inside, axis=1, append=sums[:, -1:, None] * np.ones_like(inside[:, :1])) / _squares(radii, error)
    leaked = error * np.sqrt(np.maximum(np.cumsum(rings[:, ::-1], axis=1)[:, ::-1], 0.0))
    high = (np.sqrt(inside) + leaked).min(axis=1)
    kept = np.sqrt(1 - np.minimum(1.0, error / (radii - error)) ** 2)[:, None]
    alone = (after - first == 1) * kept
    low = (np.abs(coordinates)[:, None] * alone - leaked).max(axis=1)
    return np.maximum(low, 0.0), high


def _radii(values: Numbers, error: float) -> Numbers:
    """Return radii from 2e on, the last beyond all values."""
    count = 1 + int(np.ceil(np.log(max(1.0, (values[-1] - values[0]) / error)) / np.log(GROWTH)))
    return np.asarray(2 * error * GROWTH ** np.arange(count + 1), dtype=np.float64)


def _squares(radii: Numbers, error: float) -> Numbers:
    return ((radii - error) ** 2)[:, None]
