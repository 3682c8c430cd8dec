"""Who the user is stays out of records and W&B.

``/home/alice/m`` is written as ``~/m`` and ``/scratch/alice/m`` as ``/scratch/$USER/m``, which settings may say too.
"""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.storage.files import write_bytes

URL = r"\b(?!file:)[A-Za-z][\w+.-]*://\S+"
"""Left as it is: the page of a W&B run may have its owner's name in it, and is found by nothing else."""
ABSOLUTE = r"(?<![\w.~$}-])(?:~|[A-Za-z]:|\.{1,2}|file:/{0,2})?[/\\][^\s\"'<>|:;,()]*"
"""A path within a text: from the root, the home folder, a drive, or this folder, to the first space or mark."""


def masked(value: Any) -> Any:
    """Return `value` with the home folder as ``~`` and the user's name in paths as ``$USER``, in all its strings."""
    return Mask(_home(), _user()).of(value)


@dataclass(frozen=True)
class Mask:
    """Who the user is, asked once for all strings of a record: the system takes 40 microseconds to say."""

    home: str
    user: str

    def of(self, value: Any) -> Any:
        """Return `value` with all its strings masked."""
        if isinstance(value, dict):
            return {self.of(key): self.of(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(item) for item in value]
        return self._text(value) if type(value) is str and self._may_name(value) else value

    def _may_name(self, text: str) -> bool:
        return bool(self.home and self.home in text) or bool(self.user and self.user in text)

    def _text(self, text: str) -> str:
        parts = re.split(f"({URL})", text)
        for number in range(0, len(parts), 2):
            if self.home:
                parts[number] = re.sub(rf"(?<![\w.~-]){re.escape(self.home)}(?![\w.-])", "~", parts[number])
            parts[number] = self._without_name(parts[number], whole=len(parts) == 1)
        return "".join(parts)

    def _without_name(self, text: str, whole: bool) -> str:
        """Replace the user's name as a whole part of a path; a text that begins as a path is one, spaces too."""
        if not self.user:
            return text
        part = re.compile(rf"(?<=[/\\]){re.escape(self.user)}(?![\w.-])")
        if whole and "\n" not in text and re.match(ABSOLUTE, text):
            return part.sub("$USER", text)
        return re.sub(ABSOLUTE, lambda path: part.sub("$USER", path.group()), text)


def mask_files(folder: Path, *patterns: str) -> None:
    """Mask the text files of `folder` that match, which a library wrote; each is replaced whole."""
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        without = "".join(masked(text.splitlines(keepends=True)))
        if without != text:
            write_bytes(path, without.encode(errors="surrogateescape"), flush=False)


def expanded(path: str | Path) -> Path:
    """Return a path as this user's file system has it: ``~``, ``$USER`` and other variables replaced."""
    text = re.sub(r"\$(?:USER\b|\{USER\})", lambda _: _user() or "$USER", str(path))
    return Path(os.path.expandvars(text)).expanduser()


def _user() -> str:
    """Return the user's name, empty where there is none, as in a container whose user id has no entry."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _home() -> str:
    """Return the home folder, empty where it is the root or nothing: every path would begin with it."""
    try:
        home = str(Path.home())
    except RuntimeError:  # no HOME, and no entry for the user id
        return ""
    return home if len(Path(home).parts) > 1 else ""
