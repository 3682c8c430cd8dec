"""What an objective asks of a task beyond its items; a kind of task fulfils one of these, and no objective knows kinds.

====================  ==========================================  ===========================================
a subclass of         says                                        is answered by
====================  ==========================================  ===========================================
`ChoiceTask`          each item's answers, and the right one      ``likelihood``, ``choice_head``
`LabelTask`           the answers that all items share            ``likelihood``, ``head``
`GenerationTask`      how a written answer is graded              ``generation``
`Task` itself         nothing more; targets may be numbers        ``regression_head``, ``next_token``
====================  ==========================================  ===========================================
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

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
        """Return the score of a written answer, from 0 to 1."""
