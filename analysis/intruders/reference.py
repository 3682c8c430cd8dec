"""``algorithm=svd``: two full singular value decompositions in float32, as the paper's own code does it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.changes import Change
from analysis.intruders.detection import Detection, Numbers, Side, largest_window, rank_floor
from analysis.krylov import Product, TopVectors
from analysis.spectra import Factors, similarity_matrix


class Reference:
    """Decompose the base once and every tuned matrix whole."""

    name = "svd"

    def __init__(self, base: Float[Tensor, "out in"], k: int, width: float) -> None:
        self.base, self.k, self.width = base, k, width

    @cached_property
    def factors(self) -> Factors:
        """Return the base's full decomposition."""
        u, s, vh = torch.linalg.svd(self.base, full_matrices=False)
        return Factors(u, s, vh.T)

    def detect(self, change: Change) -> Detection:
        """Return the k largest tuned vectors with their cosines against every base vector."""
        u, s, vh = torch.linalg.svd(Product.of(self.base, change).dense(), full_matrices=False)
        u, s, v = u[:, : self.k], s[: self.k], vh[: self.k].T
        top = TopVectors(u, s, v, torch.zeros_like(s))
        return Detection(top, self.side(self.factors.u, u), self.side(self.factors.v, v))

    def side(self, base: Float[Tensor, "n all"], tuned: Float[Tensor, "n k"], how: str = "svd") -> Side:
        """Return the exact cosines of tuned vectors against all base vectors of one side."""
        cos: Numbers = similarity_matrix(base, tuned).T.double().cpu().numpy()
        s: Numbers = self.factors.s.double().cpu().numpy()
        precision = torch.finfo(self.base.dtype).eps
        clusters = largest_window(cos**2, rank_floor(s, (len(base), len(self.factors.s)), precision), self.width)
        return Side.exact(cos.max(axis=1), np.sqrt(clusters), how)
