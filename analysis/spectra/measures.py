"""Spectral measures of weight matrices and of their changes: closed forms, no loops over layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.changes import Change, LowRank


class Factors(NamedTuple):
    """A thin singular value decomposition U diag(s) Vᵀ."""

    u: Float[Tensor, "out rank"]
    s: Float[Tensor, " rank"]
    v: Float[Tensor, "in rank"]


def singular_values(matrix: Float[Tensor, "out in"]) -> Float[Tensor, " n"]:
    """Return the singular values of a dense matrix, largest first."""
    return torch.linalg.svdvals(matrix)


def low_rank_svd(b: Float[Tensor, "out rank"], a: Float[Tensor, "rank in"]) -> Factors:
    """Return the singular value decomposition of B A without forming the product.

    With B = Q_b R_b and Aᵀ = Q_a R_a, B A = Q_b (R_b R_aᵀ) Q_aᵀ, and the core is rank × rank: at
    4096 × 4096 and rank 16 that is 16² numbers instead of 4096².
    """
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return Factors(q_b @ u, s, q_a @ vh.T)


def change_factors(change: Change, n: int | None = None) -> Factors:
    """Return the first n singular triplets of a change that are no rounding, from its factors where it has them."""
    if isinstance(change, LowRank):
        u, s, v = low_rank_svd(change.b.double(), change.a.double())
    else:
        u, s, vh = torch.linalg.svd(change.delta, full_matrices=False)
        v = vh.T
    rank = min(len(s) if n is None else n, int((s > 1e-6 * s[0]).sum()))  # float32 storage: further ones are rounding
    return Factors(u[:, :rank].double(), s[:rank], v[:, :rank].double())


def effective_rank(s: Float[Tensor, " n"]) -> float:
    """Return exp(-Σ p_i ln p_i) with p_i = σ_i / Σσ (Roy and Vetterli 2007); 0 for the zero matrix."""
    total = float(s.sum())
    if total == 0:
        return 0.0
    p = s.double() / total
    p = p[p > 0]
    return float(torch.exp(-(p * p.log()).sum()))


def stable_rank(s: Float[Tensor, " n"]) -> float:
    """Return ‖W‖_F² / ‖W‖_2² = Σσ_i² / σ_1²; 0 for the zero matrix."""
    top = float(s.max()) if s.numel() else 0.0
    return 0.0 if top == 0 else float((s.double() / top).square().sum())


def energy_rank(s: Float[Tensor, " n"], share: float = 0.9) -> int:
    """Return the least k with Σ_{i≤k} σ_i² ≥ share · Σσ_i²; k90 of arXiv 2405.09673 at the default."""
    energy = s.double().square().sort(descending=True).values.cumsum(0)
    if not energy.numel() or float(energy[-1]) == 0:
        return 0
    # One unit in the last place of the sum is no missing energy.
    reached = energy >= share * energy[-1] * (1 - 1e-12)
    return int(reached.int().argmax()) + 1


def relative_norm(change: Float[Tensor, " n"], base: Float[Tensor, " m"]) -> float:
    """Return ‖ΔW‖_F / ‖W0‖_F from the singular values of both."""
    return float(change.double().norm() / base.double().norm())


def marchenko_pastur_edges(rows: int, columns: int, std: float) -> tuple[float, float]:
    """Return the limits std · |√rows ∓ √columns| of the singular values of iid entries (Marchenko and Pastur 1967)."""
    return std * abs(rows**0.5 - columns**0.5), std * (rows**0.5 + columns**0.5)


def principal_cosines(q_a: Float[Tensor, "n i"], q_b: Float[Tensor, "n j"]) -> Float[Tensor, " m"]:
    """Return the cosines of the principal angles, σ_i(Q_aᵀ Q_b), between two orthonormal bases, largest first."""
    return torch.linalg.svdvals(q_a.T @ q_b).clamp(max=1)


def subspace_similarity(u_a: Float[Tensor, "n a"], u_b: Float[Tensor, "n b"], i: int, j: int) -> float:
    """Return φ(i, j) = ‖U_a[:, :i]ᵀ U_b[:, :j]‖_F² / min(i, j), from 0 to 1 (LoRA, arXiv 2106.09685, section 7.2)."""
    return float((u_a[:, :i].T @ u_b[:, :j]).square().sum() / min(i, j))


def subspace_similarities(u_a: Float[Tensor, "n a"], u_b: Float[Tensor, "n b"]) -> Float[Tensor, "a b"]:
    """Return φ(i, j) for all i and j at once; entry [i-1, j-1] is φ(i, j)."""
    sums = (u_a.T @ u_b).square().cumsum(0).cumsum(1)
    i = torch.arange(1, u_a.shape[1] + 1, device=u_a.device)
    j = torch.arange(1, u_b.shape[1] + 1, device=u_b.device)
    return sums / torch.minimum(i[:, None], j[None, :])


def amplification(
    change: Float[Tensor, "out in"],
    base: Float[Tensor, "out in"],
    u: Float[Tensor, "out r"],
    v: Float[Tensor, "in r"],
) -> float:
    """Return ‖ΔW‖_F / ‖Uᵀ W V‖_F: how far a change amplifies what W holds in its directions (LoRA, section 7.3)."""
    return float(change.norm() / (u.T @ base @ v).norm())


def similarity_matrix(base: Float[Tensor, "n i"], tuned: Float[Tensor, "n j"]) -> Float[Tensor, "i j"]:
    """Return |cos| between every base and every tuned singular vector, both of unit length."""
    return (base.T @ tuned).abs()
