"""Multiple choice: each item brings its own answers; the most likely one, per character, is the model's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from harness.config import require
from harness.errors import DataError
from harness.tasks.base import TASKS, Item, Outcome, Score, accuracy
from harness.tasks.contracts import Answer, ChoiceTask
from harness.tasks.source import Row, pick, require_pattern


@TASKS.register("multiple_choice")
@dataclass
class MultipleChoice(ChoiceTask):
    """Choose among the answers that the row itself offers.

    ``columns.choices`` is a list, a text cut up by `choices_pattern`, or several columns
    (``option1,option2``); ``columns.answer`` names one of ``columns.choice_labels``, an index, or,
    after `answer_pattern`, a letter.
    """

    own_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    many_answers: ClassVar[bool] = True

    choices_pattern: str | None = None
    """Regular expression whose first group finds each choice in a text of all of them."""
    answer_pattern: str | None = None
    """Regular expression whose first group is the answer's label."""
    choice_labels: str = "ABCDEFGH"
    """The labels of the choices in order, where no column holds them; ``12`` for WinoGrande."""
    choice_count: int = 0
    """Leave out rows with another number of choices; 0 takes all."""
    choice_template: str = " {choice}"
    """What follows the prompt for each choice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("choices", "answer"):
            require(name in self.columns, "task.columns", self.columns, f"needs {name}: <column>")
        for key, pattern in (
            ("choices_pattern", self.choices_pattern),
            ("answer_pattern", self.answer_pattern),
        ):
            if pattern is not None:
                require_pattern(f"task.{key}", pattern, groups=1)
        require(
            "{choice}" in self.choice_template,
            "task.choice_template",
            self.choice_template,
            "must contain {choice}",
        )

    def target_columns(self) -> tuple[str, ...]:
        """The choices and the answer make the target."""
        return ("choices", "choice_labels", "answer")

    def choices(self, row: Row, where: str) -> tuple[str, ...]:
        """Return the row's answers in order."""
        paths = self.columns["choices"].split(",")
        value = [pick(row, path, where) for path in paths] if len(paths) > 1 else pick(row, paths[0], where)
        if self.choices_pattern:
            value = re.findall(self.choices_pattern, str(value))
        if not isinstance(value, list):
            raise DataError(
                "task.columns.choices",
                self.columns["choices"],
                f"not a list in {where}; set task.choices_pattern to cut the text up",
            )
        return tuple(self._clean(choice, "choices", where) for choice in value)

    def target(self, row: Row, where: str) -> int | None:
        """Return the index of the right choice; None leaves the row out."""
        value = pick(row, self.columns["answer"], where)
        count = len(self.choices(row, where))
        if value is None or str(value).strip() == "" or (self.choice_count and count != self.choice_count):
            return None
        label = self._label(str(value).strip(), where)
        labels = self._labels(row, where)[:count]
        if label not in labels:
            raise DataError(
                "task.columns.answer",
                label,
                f"an answer in {where} that is none of its choices' labels {', '.join(labels)}",
            )
        return labels.index(label)

    def _label(self, value: str, where: str) -> str:
        if self.answer_pattern is None:
            return value
        match = re.search(self.answer_pattern, value)
        if match is None:
            raise DataError(
                "task.answer_pattern",
                self.answer_pattern,
                f"does not match the answer {value[:40]!r} in {where}",
            )
        return match.group(1)

    def _labels(self, row: Row, where: str) -> list[str]:
        if "choice_labels" in self.columns:
            return [str(label) for label in pick(row, self.columns["choice_labels"], where)]
        return list(self.choice_labels)

    def answers(self, item: Item) -> list[Answer]:
        """Return the item's choices; their log-likelihoods are compared per character, as lm-eval's ``acc_norm``."""
        template = self.choice_template
        return [Answer(choice, template.format(choice=choice), max(len(choice), 1)) for choice in item.choices]

    def gold(self, item: Item) -> int:
        """Return the index of the right choice."""
        return int(item.target)

    def score(self, outcomes: list[Outcome]) -> dict[str, Score]:
        """Accuracy with Wilson's interval."""
        return {"accuracy": accuracy(outcomes)}
