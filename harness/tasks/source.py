"""Where a task's rows come from and how they are read: texts, JSONL, CSV, Parquet, patterned lines, hub data."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from harness.config import Wheel, require
from harness.errors import ConfigError, DataError, first_line
from harness.storage.privacy import expanded, masked

FORMATS = ("jsonl", "csv", "parquet", "lines", "text")
ENDINGS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
}
Row = dict[str, Any]


@dataclass
class Source:
    """Rows from a local file or folder (`path`), a hub data set (`id`) or a member of a pinned wheel, in that order."""

    path: str | None = None
    """A local text, JSONL, CSV or Parquet file, or a folder of such files, read in the order of their names."""
    id: str | None = None
    """A hub data set such as ``nyu-mll/glue``."""
    config: str | None = None
    """The hub data set's configuration, such as ``mnli``."""
    revision: str | None = None
    split: str | None = None
    """The hub data set's split, such as ``validation_matched``."""
    wheel: Wheel = field(default_factory=Wheel)
    member: str | None = None
    """The file inside the wheel."""
    format: str | None = None
    """jsonl, csv, parquet, lines or text (a file is one row); told by the file's ending unless given."""
    pattern: str | None = None
    """For ``lines``: a regular expression whose named groups are the columns."""
    encoding: str = "utf-8"
    where: dict[str, str] = field(default_factory=dict)
    """Keep only rows whose columns have these values."""
    matching: dict[str, str] = field(default_factory=dict)
    """Keep only rows in which these columns match these regular expressions from their beginning."""

    def __post_init__(self) -> None:
        if self.format is not None:
            require(self.format in FORMATS, "task.data.format", self.format, f"one of {', '.join(FORMATS)}")
        if self.pattern is not None:
            require_pattern("task.data.pattern", self.pattern, groups=1)
        for column, pattern in self.matching.items():
            require_pattern(f"task.data.matching.{column}", pattern)
        require(_is_encoding(self.encoding), "task.data.encoding", self.encoding, "no such text encoding; utf-8?")
        if self.path is not None:
            self.id, self.wheel, self.member = None, Wheel(), None
        elif self.id is not None:
            self.wheel, self.member = Wheel(), None

    def keeps(self, row: Row) -> bool:
        """Tell whether `row` passes `where` and `matching`; a row without such a column does not."""
        equal = all(str(row.get(column)) == value for column, value in self.where.items())
        return equal and all(
            row.get(column) is not None and re.match(pattern, str(row[column]))
            for column, pattern in self.matching.items()
        )

    @property
    def given(self) -> bool:
        """Whether this source names any data at all."""
        return bool(self.path or self.id or self.wheel.package)

    def local_files(self, key: str) -> dict[str, Path]:
        """Return the user's own files by name: that of `path`, which has none, or each of a folder.

        Raises :class:`ConfigError` naming `key` where a folder has nothing to read.
        """
        if self.path is None:
            return {}
        path = expanded(self.path)
        if not path.is_dir():
            return {"": path}
        found = {file.relative_to(path).as_posix(): file for file in files_in(path, self.format)}
        endings = ", ".join(sorted(ENDINGS))
        require(bool(found), key, masked(str(path)), f"the folder has no file that ends in {endings}; or set format")
        return found

    def describe(self) -> str:
        """Name the source in a line, as error messages and records do."""
        if self.path:
            return self.path
        if self.id:
            return "/".join(part for part in (self.id, self.config, self.split) if part)
        return f"{self.wheel.package}=={self.wheel.version}:{self.member}"


@dataclass
class Sources:
    """One file for everything (`all`), or one for each split the data set itself has."""

    all: Source = field(default_factory=Source)
    train: Source = field(default_factory=Source)
    validation: Source = field(default_factory=Source)
    test: Source = field(default_factory=Source)

    def items(self) -> list[tuple[str, Source]]:
        """Return the sources that are given, by split name."""
        named = [(name, getattr(self, name)) for name in ("all", "train", "validation", "test")]
        return [(name, source) for name, source in named if source.given]


def read_rows(source: Source, path: Path | None) -> Iterator[Row]:
    """Yield the rows of `source`; `path` is its file or folder on disk, None for a hub data set.

    Raises :class:`DataError` naming the file, and the line where there is one.
    """
    if path is not None and path.is_dir():
        for file in files_in(path, source.format):
            yield from read_rows(source, file)
        return
    rows = _hub_rows(source) if path is None else READERS[_format(source, path)](path, source)
    try:
        yield from filter(source.keeps, rows)
    except UnicodeDecodeError as error:
        reason = f"not {error.encoding} at byte {error.start}; set encoding, such as latin-1"
        raise DataError("task.data.encoding", path, reason) from None


def files_in(folder: Path, chosen: str | None) -> list[Path]:
    """Return the files of `folder` and of those below it, by name: of known endings, of any where a format is chosen.

    Hidden ones, such as an editor's copies, are left out.
    """
    found = [file for file in sorted(folder.rglob("*")) if file.is_file() and (chosen or file.suffix in ENDINGS)]
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def require_pattern(key: str, pattern: str, groups: int = 0) -> None:
    """Require a regular expression with at least so many groups."""
    try:
        found = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(key, pattern, f"not a regular expression: {error}") from None
    require(found >= groups, key, pattern, f"needs {groups} group in brackets")


def _is_encoding(name: str) -> bool:
    try:
        codecs.lookup(name)
    except LookupError:
        return False
    return True


def _open(path: Path, source: Source) -> TextIO:
    """Open a text file without the mark that Windows programs put before UTF-8, else part of a name."""
    encoding = "utf-8-sig" if codecs.lookup(source.encoding).name == "utf-8" else source.encoding
    return path.open(encoding=encoding, newline="")


def _format(source: Source, path: Path) -> str:
    found = source.format or ENDINGS.get(path.suffix)
    if found is None:
        raise DataError(
            "task.data.path",
            path,
            f"cannot tell the format by its ending; set format to one of {', '.join(FORMATS)}",
        )
    return found


def _jsonl_rows(path: Path, source: Source) -> Iterator[Row]:
    with _open(path, source) as lines:
        for number, line in enumerate(lines, 1):
            yield _parse_json(line, f"{path}:{number}")


def _parse_json(line: str, where: str) -> Row:
    if not line.strip():
        raise DataError("task.data", where, "the line is empty; every line must be a JSON object")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError("task.data", where, f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(row, dict):
        raise DataError("task.data", where, "every line must be a JSON object")
    return row


def _csv_rows(path: Path, source: Source) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    with _open(path, source) as lines:
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        "task.data", f"{path}:{reader.line_num}", "the row's columns do not match the header"
                    )
                yield row
        except csv.Error as error:
            at = f"{path}:{reader.line_num + 1}"  # the line that cannot be parsed is not counted yet
            raise DataError("task.data", at, f"not CSV: {error}") from None


def _parquet_rows(path: Path, source: Source) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise DataError("task.data", path, f"not Parquet: {first_line(error)}") from None


def _line_rows(path: Path, source: Source) -> Iterator[Row]:
    require(
        bool(source.pattern),
        "task.data.pattern",
        source.pattern,
        "format=lines needs a regular expression with named groups",
    )
    pattern = re.compile(str(source.pattern))
    with _open(path, source) as lines:
        for number, line in enumerate(lines, 1):
            match = pattern.match(line.rstrip("\r\n"))
            if match is None:
                raise DataError("task.data", f"{path}:{number}", f"the line does not match {source.pattern}")
            yield match.groupdict()


def _text_rows(path: Path, source: Source) -> Iterator[Row]:
    with _open(path, source) as file:
        text = file.read().replace("\r\n", "\n")
    if not text.strip():
        raise DataError("task.data", path, "the file has no text")
    yield {"text": text, "file": path.name}


def _hub_rows(source: Source) -> Iterator[Row]:
    import datasets

    try:
        yield from datasets.load_dataset(source.id, source.config, split=source.split, revision=source.revision)
    except Exception as error:  # the hub client raises many kinds; all mean "cannot be had"
        reason = first_line(error)
        raise DataError("task.data.id", source.describe(), f"cannot be loaded from the hub: {reason}") from None


READERS = {"jsonl": _jsonl_rows, "csv": _csv_rows, "parquet": _parquet_rows, "lines": _line_rows, "text": _text_rows}


def pick(row: Row, paths: str, where: str) -> Any:
    """Return what `row` holds at a dotted path such as ``choices.text`` or ``input.1.content``.

    ``a|b`` takes the first that exists; ``evidence.*.2`` takes the third part of each member of a list.
    Raises :class:`DataError` naming the missing column and those that are there.
    """
    for path in paths.split("|"):
        value = _follow(row, path.split("."))
        if value is not _MISSING:
            return value
    raise DataError("task.columns", paths, f"no such column in {where}; it has {', '.join(map(str, row))}")


_MISSING: Any = object()


def _follow(value: Any, parts: list[str]) -> Any:
    for index, part in enumerate(parts):
        if part == "*" and isinstance(value, list):
            members = [_follow(member, parts[index + 1 :]) for member in value]
            return _MISSING if _MISSING in members else members
        value = _step(value, part)
    return value


def _step(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return value.get(part, _MISSING)
    if isinstance(value, list) and part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
        return value[int(part)]
    return _MISSING
