"""Classification: an encoder's head, or a decoder's likelihood of the label words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from harness.config import require
from harness.errors import DataError
from harness.tasks.base import TASKS, Outcome, Score, Splits, accuracy, bootstrap
from harness.tasks.contracts import Answer, LabelTask
from harness.tasks.source import Row, pick


@TASKS.register("classification")
@dataclass
class Classification(LabelTask):
    """One of a fixed set of labels for a text or a pair of texts."""

    own_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")

    labels: dict[Any, str] = field(default_factory=dict)
    """Label in the data → the word a decoder answers with, leading blank included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Written on the command line, {1: ' bad', 5: ' good'} has numbers for keys.
        self.labels = {str(label): word for label, word in self.labels.items()}
        require(
            len(self.labels) >= 2,
            "task.labels",
            self.labels,
            "needs at least two labels with their words: {pos: ' good', neg: ' bad'}",
        )
        words = list(self.labels.values())
        require(len(set(words)) == len(words), "task.labels", words, "two labels cannot share a word")
        for name in ("text", "label"):
            require(name in self.columns, "task.columns", self.columns, f"needs {name}: <column>")

    def target(self, row: Row, where: str) -> str | None:
        """Return the row's label as text; hub data sets mark a missing one by -1 or nothing."""
        value = pick(row, self.columns["label"], where)
        if value is None or str(value).strip() in ("", "-1"):
            return None
        label = str(value).strip()
        if label not in self.labels:
            raise DataError(
                "task.labels",
                label,
                f"a label of {where} that task.labels does not name; it names {', '.join(self.labels)}",
            )
        return label

    def check(self, splits: Splits) -> None:
        """Refuse a validation or test label that no training item has."""
        seen = {item.target for item in splits.train}
        for split in ("validation", "test"):
            for item in getattr(splits, split):
                if item.target not in seen:
                    raise DataError(
                        "task.labels",
                        item.target,
                        f"a label of the {split} split that training never sees ({', '.join(sorted(seen))})",
                    )

    def shared_answers(self) -> list[Answer]:
        """Return the labels with their words, whose summed log-likelihoods are compared as they are."""
        return [Answer(label, word) for label, word in self.labels.items()]

    def score(self, outcomes: list[Outcome]) -> dict[str, Score]:
        """Accuracy (Wilson interval) and macro F1 over the labels (bootstrap interval)."""
        names = {name: float(index) for index, name in enumerate(self.labels)}
        pairs = [(names[outcome.target], names[outcome.prediction]) for outcome in outcomes]
        return {"accuracy": accuracy(outcomes), "macro_f1": bootstrap(pairs, macro_f1, stacked=True)}


def macro_f1(pairs: Any) -> Any:
    """Return for each table of (target, prediction) the mean of 2 TP / (2 TP + FP + FN) over the labels that occur.

    `pairs` has shape ``(tables, items, 2)``. scikit-learn's ``f1_score`` gives the same of one table in 1 ms, so a
    bootstrap of 1000 would take a second.
    """
    import numpy as np

    size, tables = int(pairs.max()) + 1, len(pairs)
    cells = (pairs @ [size, 1]).astype(int) + size**2 * np.arange(tables)[:, None]
    confusion = np.bincount(cells.ravel(), minlength=tables * size**2).reshape(tables, size, size)
    right, both = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=1) + confusion.sum(axis=2)
    return (2 * right / np.maximum(both, 1)).sum(axis=1) / (both > 0).sum(axis=1)
