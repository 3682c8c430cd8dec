"""Regression: a number for a text or a pair; Pearson and Spearman correlation with the truth.

Encoders have a head for it. Decoders answer with the expected value over number words, or by writing the number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from harness.config import require
from harness.errors import DataError, NotApplicable
from harness.tasks.base import TASKS, Outcome, Score, Task, bootstrap
from harness.tasks.contracts import NumberTask
from harness.tasks.source import Row, pick


class NumberFrom(Enum):
    """How a decoder says a number."""

    expected_value = "expected_value"
    """The mean of the numbers of ``task.number_words``, each weighted by its word's likelihood."""
    generation = "generation"
    """The number that it writes."""


@TASKS.register("regression")
@dataclass
class Regression(NumberTask):
    """A number for a text or a pair of texts."""

    own_metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    later: ClassVar[dict[str, Any]] = Task.later | {
        "answer_template": " {answer}",
        "max_new_tokens": 8,
        "chat": False,
        "system": None,
        "number_words": {},
        "number_from": NumberFrom.expected_value.value,
    }
    metric: str = "spearman"
    max_new_tokens: int = 8
    number_from: NumberFrom = NumberFrom.expected_value
    """Of decoders alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        written = self.number_from is NumberFrom.generation
        require(written or not self.chat, "task.chat", self.chat, "needs task.number_from=generation")
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
        """Encoders regress by a head, decoders by the words of the numbers, if the task has some."""
        if kind == "encoder":
            return "regression_head"
        if not self.number_words:
            raise NotApplicable("regression needs an encoder, or the words of a decoder's numbers: task.number_words")
        return "generation" if self.number_from is NumberFrom.generation else "number_words"

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
