"""Continual-learning metrics of tasks trained one after another, each by its named definition.

R[i, j] is the score on task j after training on task i, i and j from 1 to T; b_j the untouched model's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.config import Between, RunConfig
from harness.forgetting.base import Change, only_after
from harness.tasks.base import Score

VERSION = 1
HEADLINE = "backward_transfer"
DEFINITIONS = {
    "average_accuracy": "ACC = mean_j R[T, j] (Lopez-Paz and Ranzato 2017, GEM)",
    "backward_transfer": "BWT = mean_{j<T} (R[T, j] − R[j, j]) (GEM)",
    "forward_transfer": "FWT = mean_{j>1} (R[j−1, j] − b_j), b the untouched model (GEM)",
    "forgetting": "F = mean_{j<T} (max_{l<T} R[l, j] − R[T, j]) (Chaudhry et al. 2018)",
    "forgetting_first_last": "mean_{j<T} (R[j, j] − R[T, j]) (Avalanche)",
}


def transfer(scores: Any, base: Any) -> dict[str, Any]:
    """Return each of :data:`DEFINITIONS` from R of shape (…, T, T) and b of shape (…, T)."""
    import numpy as np

    last = scores[..., -1, :]
    own = np.diagonal(scores, axis1=-2, axis2=-1)
    just_before = np.diagonal(scores, offset=1, axis1=-2, axis2=-1)  # R[j−1, j]
    return {
        "average_accuracy": last.mean(-1),
        "backward_transfer": (last - own)[..., :-1].mean(-1),
        "forward_transfer": (just_before - base[..., 1:]).mean(-1),
        "forgetting": (scores[..., :-1, :-1].max(-2) - last[..., :-1]).mean(-1),
        "forgetting_first_last": (own - last)[..., :-1].mean(-1),
    }


def intervals(outcomes: Sequence[Sequence[Sequence[float]]], base: Sequence[Sequence[float]]) -> dict[str, Change]:
    """Return the metrics with 95 % intervals; each task's items are resampled, the same ones for every stage.

    `outcomes` holds the scores of the items of task j after stage i at [i][j], `base` the untouched model's at [j].
    """
    import numpy as np

    tables = [np.array([base[j], *(stage[j] for stage in outcomes)]) for j in range(len(base))]
    rng = np.random.default_rng(0)

    def means(draw: bool) -> Any:
        columns = []
        for table in tables:
            count = table.shape[1]
            columns.append(table[:, rng.integers(0, count, count)].mean(1) if draw else table.mean(1))
        return np.stack(columns, axis=1)

    drawn = np.stack([means(draw=True) for _ in range(1000)])
    values, resampled = (transfer(m[..., 1:, :], m[..., 0, :]) for m in (means(draw=False), drawn))
    items = sum(table.shape[1] for table in tables)
    return {name: only_after(_score(name, float(values[name]), resampled[name], items)) for name in DEFINITIONS}


def _score(name: str, value: float, resampled: Any, items: int) -> Score:
    import numpy as np

    low, high = np.percentile(resampled, [2.5, 97.5])
    return Score(value, float(low), float(high), items, higher_is_better=not name.startswith("forgetting"))


def unsuitable(config: RunConfig) -> str | None:
    """Return why the run's method or tasks make no sequence, None where they do."""
    for name, task in config.sequence_tasks.items():
        if not task.per_item_metrics:
            return f"{name} has no score an item that R could be made of; it is measured by {', '.join(task.metrics)}"
    if config.sequence_between is Between.keep:
        return None
    method = config.method
    if not method.mergeable:
        return f"what {method.name} trains cannot be merged between tasks; use sequence_between=keep"
    if method.quantization() is not None:
        return "merging would quantise the weights again between tasks; use sequence_between=keep"
    return None
