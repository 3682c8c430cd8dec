"""Instruction: loss on the answer only, end-of-sequence learned; generated answers are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from harness.config import require
from harness.errors import NotApplicable
from harness.tasks.base import TASKS, Outcome, Score, accuracy, bootstrap, normalised
from harness.tasks.contracts import GenerationTask
from harness.tasks.source import Row, pick, require_pattern


@TASKS.register("instruction")
@dataclass
class Instruction(GenerationTask):
    """A prompt and the answer to write."""

    own_metrics: ClassVar[tuple[str, ...]] = ("exact_match", "rouge_l")
    per_item_metrics: ClassVar[tuple[str, ...]] = ("exact_match",)
    many_answers: ClassVar[bool] = True
    metric: str = "exact_match"

    answer_pattern: str | None = None
    """Regular expression whose last match's first group is compared, such as ``#### (.+)`` for GSM8K."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("answer" in self.columns, "task.columns", self.columns, "needs answer: <column>")
        if self.answer_pattern is not None:
            require_pattern("task.answer_pattern", self.answer_pattern, groups=1)
            groups = re.compile(self.answer_pattern).groups
            require(
                groups == 1,
                "task.answer_pattern",
                self.answer_pattern,
                "needs one group; write the others (?:…)",
            )

    def target_columns(self) -> tuple[str, ...]:
        """The answer is the target."""
        return ("answer",)

    def target(self, row: Row, where: str) -> str | None:
        """Return the reference answer."""
        value = pick(row, self.columns["answer"], where)
        return None if value is None or str(value).strip() == "" else self._clean(value, "answer", where)

    def objective(self, kind: str) -> str:
        """Only decoders write answers."""
        if kind != "decoder":
            raise NotApplicable("instruction tuning needs a decoder; this model is an encoder")
        return "generation"

    def final_answer(self, text: str) -> str:
        """Return what is compared: the last match of `answer_pattern`, or the whole text.

        Case and blanks are folded and thousands' commas dropped: 2,125 is 2125.
        """
        found = re.findall(self.answer_pattern, text) if self.answer_pattern else []
        return re.sub(r"(?<=\d),(?=\d{3}\b)", "", normalised(found[-1] if found else text))

    def grade(self, prediction: str, reference: str) -> float:
        """Return 1 where the final answers are the same, else 0."""
        return float(self.final_answer(prediction) == self.final_answer(reference))

    def score(self, outcomes: list[Outcome]) -> dict[str, Score]:
        """Exact match (Wilson interval) and mean ROUGE-L F1 (bootstrap interval)."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        overlaps = [scorer.score(outcome.target, outcome.prediction)["rougeL"].fmeasure for outcome in outcomes]
        return {
            "exact_match": accuracy(outcomes),
            "rouge_l": bootstrap(overlaps, lambda values: float(values.mean())),
        }
