"""The count again, by numpy alone: full decompositions in double precision and the definition."""

from __future__ import annotations

import numpy as np
import torch

from analysis.spectra.changes import Change


def cosines(base: np.ndarray, tuned: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return max over all base vectors of |cos|, for the first k tuned vectors, left and right."""
    x, _, zh = np.linalg.svd(base, full_matrices=False)
    y, _, vh = np.linalg.svd(tuned, full_matrices=False)
    return np.abs(x.T @ y[:, :k]).max(0), np.abs(zh @ vh[:k].T).max(0)


def well_posed(base: torch.Tensor, change: Change, k: int, eps: float) -> tuple[np.ndarray, ...] | None:
    """Return the intruders of both sides; None where changes of the size of float32's rounding alter the answer."""
    exact = base.double().numpy(), (base.double() + change.dense().double()).numpy()
    random = np.random.default_rng(0)
    scale = 3e-6 * max(np.linalg.norm(exact[1], 2), np.linalg.norm(exact[0], 2)) / np.sqrt(max(base.shape))
    answers = []
    for size in (0.0, scale, scale, scale):
        noisy = [matrix + size * random.normal(size=matrix.shape) for matrix in exact]
        answers.append(tuple(side < eps for side in cosines(noisy[0], noisy[1], k)))
    same = all((side == first).all() for answer in answers for side, first in zip(answer, answers[0], strict=True))
    return answers[0] if same else None
