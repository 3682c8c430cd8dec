"""Who the user is stays out of records and W&B.

``/home/alice/m`` is written as ``~/m`` and ``/scratch/alice/m`` as ``/scratch/$USER/m``, which settings may say too.
"""

from __future__ import annotations

import getpass
import os
import re
from pathlib import Path
from typing import Any

from harness.storage.files import write_bytes

URL = r"\b(?!file:)[A-Za-z][\w+.-]*://\S+"
"""Left as it is: the page of a W&B run may have its owner's name in it, and is found by nothing else."""
ABSOLUTE = r"(?<![\w.~$}-])(?:~|[A-Za-z]:|\.{1,2}|file:/{0,2})?[/\\][^\s\"'<>|:;,()]*"
"""A path within a text: from the root, the home folder, a drive, or this folder, to the first space or mark."""


def masked(value: Any) -> Any:
    """Return `value` with the home folder as ``~`` and the user's name in paths as ``$USER``, in all its strings."""
    if isinstance(value, dict):
        return {masked(key): masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return _masked_text(value) if type(value) is str else value


def mask_files(folder: Path, *patterns: str) -> None:
    """Mask the text files of `folder` that match, which a library wrote; each is replaced whole."""
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        without = "".join(map(masked, text.splitlines(keepends=True)))
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


def _masked_text(text: str) -> str:
    home = _home()
    parts = re.split(f"({URL})", text)
    for number in range(0, len(parts), 2):
        if home:
            parts[number] = re.sub(rf"(?<![\w.~-]){re.escape(home)}(?![\w.-])", "~", parts[number])
        parts[number] = _without_name(parts[number], whole=len(parts) == 1)
    return "".join(parts)


def _home() -> str:
    """Return the home folder, empty where it is the root or nothing: every path would begin with it."""
    try:
        home = str(Path.home())
    except RuntimeError:  # no HOME, and no entry for the user id
        return ""
    return home if len(Path(home).parts) > 1 else ""


def _without_name(text: str, whole: bool) -> str:
    """Replace the user's name where it is a whole part of a path; a text that begins as a path is one, spaces too."""
    user = _user()
    if not user:
        return text
    part = re.compile(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])")
    if whole and "\n" not in text and re.match(ABSOLUTE, text):
        return part.sub("$USER", text)
    return re.sub(ABSOLUTE, lambda path: part.sub("$USER", path.group()), text)
