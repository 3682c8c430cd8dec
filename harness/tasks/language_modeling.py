"""Language modelling: texts packed into blocks of equal length; perplexity of the blocks held out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from harness.config import require, require_at_least
from harness.errors import NotApplicable
from harness.tasks.base import TASKS, Item, Outcome, Score, Task, bootstrap
from harness.tasks.source import Row


@TASKS.register("language_modeling")
@dataclass
class LanguageModeling(Task):
    """Predict each next token of plain text; `max_length` is the length of a packed block."""

    own_metrics: ClassVar[tuple[str, ...]] = ("perplexity",)
    later: ClassVar[dict[str, Any]] = Task.later | {"passage_words": 0}

    metric: str = "perplexity"
    columns: dict[str, str] = field(default_factory=lambda: {"text": "text"})
    passage_words: int = 0
    """Cut each text into passages of at least so many words, so that parts of a long one are held out; 0 keeps it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.metrics, "task.metrics", self.metrics, "language modelling has no answers that it could compare"
        )
        require("text" in self.columns, "task.columns", self.columns, "needs text: <column>")
        require_at_least("task.passage_words", self.passage_words, 0)

    def target_columns(self) -> tuple[str, ...]:
        """All columns are text."""
        return ()

    def target(self, row: Row, where: str) -> str:
        """The text is its own target."""
        return ""

    def parts(self, item: Item) -> Iterator[Item]:
        """Yield a text's passages; each has a hash of its own, by which it is trained on or held out."""
        for text in passages(item.fields["text"], self.passage_words):
            fields = item.fields | {"text": text}
            yield replace(item, id=self.hash_of(fields), fields=fields)

    def when_few(self, texts: int) -> str:
        """Say that long texts can be cut."""
        return f" ({texts} text{'s'[: texts != 1]} in all); task.passage_words=100 cuts long texts"

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


def passages(text: str, words: int) -> list[str]:
    """Cut a text into passages of at least `words` words, at the ends of lines where these come within twice as many.

    What is left at the end joins the last passage; 0 words cut nothing.
    """
    if not words:
        return [text]
    found: list[list[str]] = [[]]
    for word in re.findall(r"\S+\s*", text):
        passage = found[-1]
        passage.append(word)
        if len(passage) >= words and ("\n" in word or len(passage) == 2 * words):
            found.append([])
    if len(found) > 1 and len(found[-1]) < words:
        rest = found.pop()
        found[-1] += rest
    return ["".join(passage).strip() for passage in found]
