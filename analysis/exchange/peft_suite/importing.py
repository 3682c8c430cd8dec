"""Result files → folders that every command of the analysis reads: ``<runs>/foreign/<name>/peft_suite.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from analysis.errors import AnalysisError
from analysis.exchange.peft_suite.schema import FILE, read
from harness.errors import RecordError
from harness.storage.files import new_folder, write_json

FOREIGN = "foreign"
SOURCE = "source.json"
"""Beside the copy: the name of the file it came from, and its sha256."""


@dataclass
class Imported:
    """What an import did, file by file."""

    new: list[Path] = field(default_factory=list)
    """Folders written."""
    known: list[Path] = field(default_factory=list)
    """Folders that held the same bytes already."""
    problems: list[str] = field(default_factory=list)
    """One line for each file that is no result."""


def import_results(source: Path, runs: Path) -> Imported:
    """Copy each result file of `source`, a folder or one file, byte by byte into ``runs/foreign``.

    The same bytes are kept once; another result of the same name goes beside the first, and nothing is replaced.
    Raises :class:`AnalysisError` where there is nothing to import.
    """
    done = Imported()
    for file in _files(source):
        try:
            read(file)
        except RecordError as error:
            done.problems.append(str(error))
            continue
        folder, present = _place(file, runs / FOREIGN)
        if not present:
            _copy(file, folder)
        (done.known if present else done.new).append(folder)
    if not done.new and not done.known:
        more = f" (and {len(done.problems) - 1} more)" if len(done.problems) > 1 else ""
        raise AnalysisError(f"{source}: holds no result file: {done.problems[0]}{more}")
    return done


def _files(source: Path) -> Iterator[Path]:
    files = [source] if source.is_file() else sorted(source.glob("*.json"))
    if not files:
        what = "there is no .json file in it" if source.is_dir() else "there is no such file or folder"
        raise AnalysisError(f"{source}: {what}; give the folder of method_comparison/MetaMathQA/results")
    yield from files


def _place(file: Path, foreign: Path) -> tuple[Path, bool]:
    """Return the folder for a file, and whether it is there: its name, with its hash if another result has that."""
    digest = _sha256(file)
    for folder in (foreign / file.stem, foreign / f"{file.stem}-{digest[:8]}"):
        if not (folder / FILE).exists():
            return folder, False
        if _sha256(folder / FILE) == digest:
            return folder, True
    raise AnalysisError(f"{folder}: was changed by hand; move it away to import {file.name} again")


def _copy(file: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as partial:
        (partial / FILE).write_bytes(file.read_bytes())
        write_json(partial / SOURCE, {"file": file.name, "sha256": _sha256(file)})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
