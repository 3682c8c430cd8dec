"""What an objective asks of a task beyond its items; a kind of task fulfils one of these, and no objective knows kinds.

====================  ==========================================  ===========================================
a subclass of         says                                        is answered by
====================  ==========================================  ===========================================
`ChoiceTask`          each item's answers, and the right one      ``likelihood``, ``choice_head``
`LabelTask`           the answers that all items share            ``likelihood``, ``head``
`GenerationTask`      how a written answer is graded              ``generation``
`NumberTask`          the words of the numbers on its scale       ``number_words``, ``generation``
`Task` itself         nothing more; targets may be numbers        ``regression_head``, ``next_token``
====================  ==========================================  ===========================================
"""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.config import require, require_at_least
from harness.tasks.base import Item, Task


@dataclass(frozen=True)
class Answer:
    """One of the answers that a model chooses from."""

    name: str
    """What records call it; an encoder that scores pairs reads it after the prompt."""
    text: str
    """What a decoder's likelihood is taken of after the prompt, leading blank included."""
    weight: float = 1.0
    """What log p(text) is divided by before answers are compared, such as their length in characters."""


@dataclass
class ChoiceTask(Task):
    """A task whose items are answered by one of several answers; an item's score is 1 where it is the right one."""

    per_item_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    @abstractmethod
    def answers(self, item: Item) -> list[Answer]:
        """Return what `item` may be answered with, in a fixed order."""

    @abstractmethod
    def gold(self, item: Item) -> int:
        """Return the index of the right one of `answers`."""

    def objective(self, kind: str) -> str:
        """Encoders score each pair of prompt and answer by a head, decoders by likelihood."""
        return "choice_head" if kind == "encoder" else "likelihood"


@dataclass
class LabelTask(ChoiceTask):
    """A task all of whose items share their answers; `target` gives the name of one."""

    @abstractmethod
    def shared_answers(self) -> list[Answer]:
        """Return the answers of every item, in the order of a head's outputs."""

    def answers(self, item: Item) -> list[Answer]:
        """Return the shared answers."""
        return self.shared_answers()

    def gold(self, item: Item) -> int:
        """Return the index of the answer that the item's target names."""
        return [answer.name for answer in self.shared_answers()].index(item.target)

    def objective(self, kind: str) -> str:
        """Encoders classify by a head, decoders by the likelihood of the answers."""
        return "head" if kind == "encoder" else "likelihood"


@dataclass
class GenerationTask(Task):
    """A task whose answers are written; `target` gives the reference."""

    answer_template: str = " {answer}"
    """What is learned after the prompt; an end-of-sequence token is added."""
    max_new_tokens: int = 64
    """Tokens generated at most when an answer is scored."""
    chat: bool = False
    """Put the prompt into the model's own chat template."""
    system: str | None = None
    """The system message where `chat` is on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        template = self.answer_template
        require("{answer}" in template, "task.answer_template", template, "must contain {answer}")
        require_at_least("task.max_new_tokens", self.max_new_tokens, 1)

    @abstractmethod
    def grade(self, prediction: str, reference: str) -> float:
        """Return the score of a written answer, from 0 to 1; of a number, the number that is read in it."""

    def reference(self, item: Item) -> str:
        """Return the answer that is learned."""
        return str(item.target)


@dataclass
class NumberTask(GenerationTask):
    """A task whose targets are numbers on a scale of words for decoders; an item's score is the number said."""

    number_words: dict[Any, str] = field(default_factory=dict)
    """Number → the word that a decoder answers with, leading blank included; encoders need none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.number_words = {str(number): word for number, word in self.number_words.items()}
        for number, word in self.number_words.items():
            known = re.fullmatch(r"-?\d+(\.\d+)?", number) is not None
            require(known and bool(word), f"task.number_words.{number}", word, "must be a number and its word")
        require(len(self.number_words) != 1, "task.number_words", self.number_words, "needs two numbers or more")

    def scale(self) -> list[tuple[float, str]]:
        """Return the numbers with their words, in order."""
        return sorted((float(number), word) for number, word in self.number_words.items())

    def reference(self, item: Item) -> str:
        """Return the number with three digits: hub data holds 3.8 as 3.7999999523."""
        return format(float(item.target), ".3g")

    def grade(self, prediction: str, reference: str) -> float:
        """Return the first number of a written answer, within the scale; where there is none, the middle of it."""
        low, high = self.scale()[0][0], self.scale()[-1][0]
        found = re.search(r"-?\d+(?:\.\d+)?", prediction)
        return min(max(float(found.group()), low), high) if found else (low + high) / 2
