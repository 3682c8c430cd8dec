"""Language modelling: texts packed into blocks of equal length; perplexity of the blocks held out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from harness.config import require
from harness.errors import NotApplicable
from harness.tasks.base import TASKS, Outcome, Score, Task, bootstrap
from harness.tasks.source import Row


@TASKS.register("language_modeling")
@dataclass
class LanguageModeling(Task):
    """Predict each next token of plain text; `max_length` is the length of a packed block."""

    own_metrics: ClassVar[tuple[str, ...]] = ("perplexity",)
    metric: str = "perplexity"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.metrics, "task.metrics", self.metrics, "language modelling has no answers that it could compare"
        )
        require("text" in self.columns, "task.columns", self.columns, "needs text: <column>")

    def target_columns(self) -> tuple[str, ...]:
        """All columns are text."""
        return ()

    def target(self, row: Row, where: str) -> str:
        """The text is its own target."""
        return ""

    def objective(self, kind: str) -> str:
        """Only decoders predict the next token."""
        if kind != "decoder":
            raise NotApplicable("language modelling needs a decoder; this model is an encoder")
        return "next_token"

    def score(self, outcomes: list[Outcome]) -> dict[str, Score]:
        """Perplexity exp(Σ loss / Σ tokens) with a bootstrap interval over blocks."""
        rows = [(outcome.loss, outcome.tokens) for outcome in outcomes]
        return {
            "perplexity": bootstrap(rows, lambda r: math.exp(r[:, 0].sum() / r[:, 1].sum()), higher_is_better=False)
        }
