"""What every kind of task shares: items, splits that never depend on the seed, and scores with intervals."""

from __future__ import annotations

import hashlib
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from harness.config import require, require_at_least, require_share
from harness.errors import DataError, nearest
from harness.registry import Registry
from harness.tasks import external
from harness.tasks.scores import Outcome, Score, accuracy, bootstrap
from harness.tasks.source import Row, Source, Sources, pick, read_rows

TASKS: Registry[Task] = Registry("task")
SPLITS = ("train", "validation", "test")
Fetch = Callable[[Source], "Path | None"]
__all__ = [
    "SPLITS",
    "TASKS",
    "Fetch",
    "Item",
    "Outcome",
    "Score",
    "Splits",
    "Task",
    "accuracy",
    "bootstrap",
    "clusters",
    "normalised",
]


@dataclass(frozen=True)
class Item:
    """One example: what the model reads, what it may answer, what it should answer."""

    id: str
    """A hash of the text, the same in every run, so that two runs compare item by item.

    Its first 16 digits are the text's alone and decide the split; where a text may have many answers,
    8 digits of the answer follow.
    """
    fields: dict[str, str]
    """The columns that templates may use; encoders read ``text`` and ``text_pair``."""
    target: Any
    """A label, an index into `choices`, a number, or the reference answer."""
    choices: tuple[str, ...] = ()


@dataclass
class Splits:
    """The items of each split, and what was dropped on the way."""

    train: list[Item]
    validation: list[Item]
    test: list[Item]
    dropped: dict[str, int] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Return a hash of every item in order: what was really trained and tested on."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for item in getattr(self, split):
                digest.update(f"{split}\0{item.id}\0{item.target}\0{item.choices}\n".encode())
        return digest.hexdigest()


@dataclass
class Task(ABC):
    """A kind of task over some rows; a data set is a preset that fills in the fields."""

    name: ClassVar[str] = "task"
    own_metrics: ClassVar[tuple[str, ...]] = ()
    """What :meth:`score` computes."""
    per_item_metrics: ClassVar[tuple[str, ...]] = ()
    """Those of `own_metrics` that are the mean of the items' scores, which sequences of tasks are measured by."""
    later: ClassVar[dict[str, Any]] = {"metrics": []}
    """Fields that came after runs' ids were given out, at what every task was before: other values count in the id."""
    many_answers: ClassVar[bool] = False
    """Whether the same text with another answer is another item, kept in the same split."""

    dataset: str = "custom"
    """The data set's name in tables."""
    data: Sources = field(default_factory=Sources)
    columns: dict[str, str] = field(default_factory=dict)
    """Field name → column path; ``text`` and the target are needed, more may be used by `template`."""
    unique_by: list[str] = field(default_factory=list)
    """Fields by which rows are the same item; all text fields unless given."""
    substitute: dict[str, str] = field(default_factory=dict)
    """Text to replace in every field, such as ``<br />`` by a blank."""
    template: str = "{text}"
    """What a decoder reads, with fields in braces."""
    metric: str = "accuracy"
    """The metric of the result table."""
    metrics: list[str] = field(default_factory=list)
    """Metrics of the `evaluate` library besides the task's own: ``evaluate:bleu``, ``path:metrics/word_overlap``."""
    max_length: int = 256
    """Tokens; the longest field of a longer example is cut at its end, and the cuts are counted."""
    max_train: int = -1
    max_validation: int = 200
    max_test: int = 400
    """Items at most, the first in hash order, whatever the seed; -1 takes all."""
    validation_share: float = 0.1
    test_share: float = 0.1
    """Of the hashes, where the data has no such split of its own."""
    drop_unlabelled: bool = False
    """Leave out rows without a target instead of refusing the data."""
    licence: str | None = None
    citation: str | None = None
    source: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        given = [name for name, _ in self.data.items()]
        require(
            bool(given),
            "task",
            self.dataset,
            "needs task.data.all.path=<file> or task.data.train.path=<file>",
        )
        require("all" in given or "train" in given, "task.data", given, "needs `all` or `train`")
        known = [*self.own_metrics, *(external.parsed(spec).name for spec in self.metrics)]
        twice = sorted({name for name in known if known.count(name) > 1})
        require(not twice, "task.metrics", self.metrics, f"two metrics have the name {', '.join(twice)}")
        require(self.metric in known, "task.metric", self.metric, f"no such metric; {nearest(self.metric, known)}")
        require_at_least("task.max_length", self.max_length, 8)
        for name in ("max_train", "max_validation", "max_test"):
            value = getattr(self, name)
            require(value == -1 or value >= 1, f"task.{name}", value, "must be at least 1, or -1 for all")
        for name in ("validation_share", "test_share"):
            require_share(f"task.{name}", getattr(self, name))
        self._check_template(self.template, "task.template")

    def _check_template(self, template: str, key: str) -> None:
        used = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        unknown = used - set(self.text_fields())
        require(
            not unknown,
            key,
            template,
            f"has no field {', '.join(sorted(unknown))}; fields are {', '.join(self.text_fields())}",
        )

    def files(self) -> dict[str, Path]:
        """Return the local files whose content decides the items or what they score, by the setting that names each."""
        found: dict[str, Path] = {}
        for name, source in self.data.items():
            found |= named(f"data.{name}.path", source.local_files(f"task.data.{name}.path"))
        for place, metric in enumerate(map(external.parsed, self.metrics)):
            # The chosen value stands in the name: two values of one script are two metrics.
            found |= {f"metrics.{place}/{metric.name}/{name}": path for name, path in metric.files().items()}
        return found

    def text_fields(self) -> list[str]:
        """Return the fields that hold text, which templates may use."""
        return [name for name in self.columns if name not in self.target_columns()]

    def target_columns(self) -> tuple[str, ...]:
        """Return the field names of `columns` that make the target rather than the text."""
        return ("label",)

    @abstractmethod
    def target(self, row: Row, where: str) -> Any:
        """Return the row's target; None marks a row without one."""

    def choices(self, row: Row, where: str) -> tuple[str, ...]:
        """Return the answers to choose from; none for most kinds."""
        return ()

    @abstractmethod
    def score(self, outcomes: list[Outcome]) -> dict[str, Score]:
        """Return each of `own_metrics` with its interval."""

    def scores(self, outcomes: list[Outcome]) -> dict[str, Score]:
        """Return the task's own metrics and those of `metrics`, which have NaN for an interval where they have none."""
        return self.score(outcomes) | external.scores(self.metrics, outcomes)

    def annotated(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Return the outcomes with the values of `metrics`, so that nobody has to run their scripts again."""
        return external.annotated(self.metrics, outcomes)

    @abstractmethod
    def objective(self, kind: str) -> str:
        """Return the name of the objective (``harness.objectives``) for a model of this kind, encoder or decoder.

        What that objective asks of the task is in ``harness.tasks.contracts``.
        Raises :class:`NotApplicable` where such a model cannot do this kind of task.
        """

    def load(self, fetch: Fetch) -> Splits:
        """Read, clean, de-duplicate and split; `fetch` turns a source into a file on disk."""
        dropped: dict[str, int] = {}
        parts = {name: list(self._items(source, fetch(source), dropped)) for name, source in self.data.items()}
        splits = self._split(parts, dropped)
        for name in SPLITS:
            limit = getattr(self, f"max_{name}")
            items = sorted(getattr(splits, name), key=lambda item: item.id)
            setattr(splits, name, items if limit == -1 else items[:limit])
            if not getattr(splits, name):
                texts = sum(len(getattr(splits, other)) for other in SPLITS)
                raise DataError(f"task.data.{name}", self.dataset, f"the split has no rows{self.when_few(texts)}")
        self.check(splits)
        return splits

    def when_few(self, texts: int) -> str:
        """Return what to do where so many texts leave a split without any; nothing that this kind of task knows of."""
        return ""

    def check(self, splits: Splits) -> None:  # noqa: B027 a choice, no duty
        """Refuse items that cannot be scored, such as a label never seen in training."""

    def _items(self, source: Source, path: Path | None, dropped: dict[str, int]) -> Iterator[Item]:
        where = source.describe()
        empty = True
        for row in read_rows(source, path):
            empty = False
            item = self._item(row, where)
            if item is None:
                dropped["without a target"] = dropped.get("without a target", 0) + 1
            else:
                yield from self.parts(item)
        if empty:
            kept = source.where | source.matching
            raise DataError("task.data", where, "the file has no rows" + (f" with {kept}" if kept else ""))

    def parts(self, item: Item) -> Iterator[Item]:
        """Yield what a row's item is cut into: itself."""
        yield item

    def _item(self, row: Row, where: str) -> Item | None:
        texts = {name: self._clean(pick(row, self.columns[name], where), name, where) for name in self.text_fields()}
        target = self.target(row, where)
        if target is None:
            require(
                self.drop_unlabelled,
                "task.columns",
                where,
                "a row has no target; set task.drop_unlabelled=true to leave such rows out",
            )
            return None
        item = Item(self.hash_of(texts), texts, target, self.choices(row, where))
        if not self.many_answers:
            return item
        return replace(item, id=item.id + _digest(f"{item.target}\0{item.choices}")[:8])

    def hash_of(self, texts: dict[str, str]) -> str:
        """Return the hash of an item's texts that decides its split."""
        key = "\0".join(normalised(texts[name]) for name in (self.unique_by or self.text_fields()))
        return _digest(key)[:16]

    def _clean(self, value: Any, name: str, where: str) -> str:
        if value is None:
            raise DataError(f"task.columns.{name}", self.columns[name], f"a row of {where} has no value there")
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for old, new in self.substitute.items():
            text = text.replace(old, new)
        return text.strip()

    def _split(self, parts: dict[str, list[Item]], dropped: dict[str, int]) -> Splits:
        """Give each distinct item to one split: the data's own where it has them, else by its text's hash.

        A text in two of the data's own splits stays in the test split, then validation, so that nothing
        tested was trained on. Items are taken in the order of their contents, so that which of two
        duplicates stays does not depend on the order of the file.
        """
        groups: dict[str, list[Item]] = {split: [] for split in SPLITS}
        seen: dict[str, Item] = {}
        place: dict[str, str] = {}
        for name in ("test", "validation", "train", "all"):
            for item in sorted(parts.get(name, []), key=lambda item: (item.id, repr(item))):
                text = item.id[:16]
                split = self._place(name, text, parts)
                if item.id in seen or place.setdefault(text, split) != split:
                    kind = _duplicate(item, seen.get(item.id))
                    dropped[kind] = dropped.get(kind, 0) + 1
                else:
                    seen[item.id] = item
                    groups[split].append(item)
        return Splits(**groups, dropped=dropped)

    def _place(self, part: str, text: str, parts: dict[str, list[Item]]) -> str:
        if part in ("test", "validation"):
            return part
        position = int(text[:8], 16) / 16**8
        test = 0.0 if "test" in parts else self.test_share
        validation = 0.0 if "validation" in parts else self.validation_share
        if position < test:
            return "test"
        return "validation" if position < test + validation else "train"


def named(setting: str, files: dict[str, Path]) -> dict[str, Path]:
    """Return files by the setting that names each, as ``Task.files`` does: a folder's are ``<setting>/<name>``."""
    return {f"{setting}/{name}" if name else setting: path for name, path in files.items()}


def clusters(items: Sequence[Item]) -> dict[str, str]:
    """Return item → a hash of its longest text: questions on one passage share it, and a sample of passages drew them.

    Longest on the mean of all items, for a passage is longer than what is asked of it; items of one text stand alone.
    """
    if not items:
        return {}
    longest = max(items[0].fields, key=lambda name: sum(len(item.fields[name]) for item in items), default=None)
    return {} if longest is None else {item.id: _digest(item.fields[longest])[:16] for item in items}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _duplicate(item: Item, kept: Item | None) -> str:
    """Name the reason for which `item` is dropped."""
    if kept is None:
        return "texts of another split"
    return "duplicates" if item.target == kept.target else "duplicates with another target"


def normalised(text: str) -> str:
    """Fold case and white space, so that texts which differ in nothing else are one item."""
    return re.sub(r"\s+", " ", text).strip().casefold()
