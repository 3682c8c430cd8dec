"""Null controls: what counts come of changes of the same size that mean nothing, many draws of each.

A count means nothing alone. Beside it stand random changes

    spectrum   of ΔW's own singular values, with Haar singular vectors: the main one
    low_rank   factors of independent normal entries, of ΔW's norm and rank: a flat spectrum, where it has a rank
    dense      independent normal entries, of ΔW's norm

Each of the three is as likely turned by any rotation, so the cosines of W0 + its draw depend on W0 by its singular
values alone: draws are made and counted in the base's own coordinates, W0 = diag(σ), and neither W0 nor its vectors
are touched.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.changes import Change, Dense, LowRank
from analysis.spectra.intruders.bounds import Numbers
from analysis.spectra.intruders.detection import largest_window
from analysis.spectra.singular import DiagonalPlus, top_left

MAIN = "spectrum"
"""The control that a count is held against."""
RANDOM = (MAIN, "low_rank", "dense")
FEW = 64
"""Directions of a change that are drawn as factors in double precision; more are one dense matrix in float32."""
FLOOR = 1e-3
"""Of the largest, below which singular values are one cluster."""


@dataclass(frozen=True)
class Null:
    """What random changes are made of: the base's singular values, the longer side, and the change they imitate."""

    sigma: Float[Tensor, " n"]
    """Rising."""
    far: int
    spectrum: Float[Tensor, " rank"]
    """The singular values of ΔW."""
    rank: int | None
    """Of a low-rank change."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Return which random changes there are beside this one."""
        return tuple(name for name in RANDOM if name != "low_rank" or self.rank is not None)

    def draw(self, control: str, generator: torch.Generator) -> Change:
        """Return one random change of the near (n) by the far side, in the base's coordinates."""
        n, norm = len(self.sigma), float(self.spectrum.norm())
        if control == MAIN:
            return _of_spectrum(self.spectrum, n, self.far, generator)
        if control == "low_rank":
            assert self.rank is not None
            made = LowRank(_normal(n, self.rank, generator), _normal(self.rank, self.far, generator))
            return LowRank(made.b * (norm / made.squared_norm() ** 0.5), made.a)
        delta = torch.randn(n, self.far, generator=generator)
        return Dense(delta * (norm / float(delta.norm())))

    def cosines(self, change: Change, k: int, width: float) -> Numbers:
        """Return (4, k) of the k largest vectors of diag(σ) + ΔW: max |cos|, then by clusters, near and far sides."""
        near, far, s = self._tuned(change, k)
        sigma: Numbers = self.sigma.numpy()
        weights = [(near**2).numpy(), ((far / s[:, None])[:, : len(sigma)] ** 2).numpy()]
        clustered = [largest_window(side, np.maximum(sigma, FLOOR * sigma[-1]), width) for side in weights]
        both = [(side.max(axis=1), cluster) for side, cluster in zip(weights, clustered, strict=True)]
        return np.sqrt(np.stack([row for side in both for row in side]))

    def _tuned(self, change: Change, k: int) -> tuple[Tensor, Tensor, Tensor]:
        near = self._low_rank(change, k) if isinstance(change, LowRank) else None
        if near is None:
            whole = change.dense().clone()
            whole.diagonal().add_(self.sigma)
            found = top_left(whole, k)
            near, far = found.double(), (found @ whole).double()
        else:
            through = torch.nn.functional.pad(near * self.sigma, (0, self.far - len(self.sigma)))
            far = through + change.transposed_times(near.T).T
        return near, far, far.norm(dim=1)

    def _low_rank(self, change: LowRank, k: int) -> Float[Tensor, "k n"] | None:
        g = self.sigma * change.a[:, : len(self.sigma)] + (change.a @ change.a.T / 2) @ change.b.T
        return DiagonalPlus(self.sigma.square(), change.b.T.contiguous(), g).top(k)


def drawn(null: Null, stream: str, draws: int, k: int, width: float) -> dict[str, Numbers]:
    """Return the cosines (draws, 4, k) of each control, `stream` naming all that the draws depend on."""
    found = {}
    for control in null.controls:
        digest = hashlib.sha256(f"{stream} {control}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        found[control] = np.stack([null.cosines(null.draw(control, generator), k, width) for _ in range(draws)])
    return found


def _of_spectrum(s: Float[Tensor, " rank"], near: int, far: int, generator: torch.Generator) -> Change:
    """Return a change of these singular values whose singular vectors are uniform (Haar) on both sides."""
    dtype = torch.float64 if len(s) <= FEW else torch.float32
    u, v = (_haar(_normal(side, len(s), generator).to(dtype)) for side in (near, far))
    made = LowRank(u * s.to(dtype), v.T)
    return made if dtype == torch.float64 else Dense(made.dense())


def _haar(normal: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Return uniform orthonormal columns: Q of a normal matrix, R's diagonal positive (Mezzadri 2007)."""
    q, r = torch.linalg.qr(normal)
    return q * r.diagonal().sign()


def _normal(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)
