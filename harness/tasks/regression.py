"""Regression: an encoder's head predicts a number; Pearson and Spearman correlation with the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.config import require
from harness.errors import DataError, NotApplicable
from harness.tasks.base import TASKS, Outcome, Score, Task, bootstrap
from harness.tasks.source import Row, pick


@TASKS.register("regression")
@dataclass
class Regression(Task):
    """A number for a text or a pair of texts."""

    own_metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    metric: str = "spearman"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text", "label"):
            require(name in self.columns, "task.columns", self.columns, f"needs {name}: <column>")

    def target(self, row: Row, where: str) -> float | None:
        """Return the row's number."""
        value = pick(row, self.columns["label"], where)
        if value is None or str(value).strip() == "":
            return None
        try:
            number = float(value)
        except ValueError:
            raise DataError("task.columns.label", value, f"a value in {where} that is not a number") from None
        if not math.isfinite(number):
            raise DataError("task.columns.label", value, f"a value in {where} that is not finite")
        return number

    def objective(self, kind: str) -> str:
        """Only encoders have a head to regress with."""
        if kind != "encoder":
            raise NotApplicable("regression needs an encoder with a head; this model is a decoder")
        return "regression_head"

    def score(self, outcomes: list[Outcome]) -> dict[str, Score]:
        """Pearson's and Spearman's correlation (bootstrap intervals); NaN where predictions are constant."""
        import numpy as np
        from scipy.stats import rankdata

        rows = np.array([(outcome.score, float(outcome.target)) for outcome in outcomes])
        return {
            "pearson": bootstrap(rows, pearson),
            "spearman": bootstrap(rows, lambda r: pearson(rankdata(r, axis=0))),
        }


def pearson(rows: Any) -> float:
    """Return the correlation of two columns, NaN where one is constant.

    scipy's ``pearsonr`` gives the same and a p-value besides, which makes a bootstrap ten times slower.
    """
    import numpy as np

    if not np.ptp(rows, axis=0).all():
        return float("nan")
    first, second = (rows - rows.mean(axis=0)).T
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))
