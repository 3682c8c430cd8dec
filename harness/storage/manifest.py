"""Folders of fetched files, each checked by a manifest on every use and filled by one process at a time."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import AssetError, first_line
from harness.storage.locks import exclusive

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
Entry = dict[str, "int | str"]
"""What a manifest says of a file: its ``size`` in bytes and its ``sha256``."""


def sha256_of(path: Path | str) -> str:
    """Return a file's sha256, read once a process unless its size or time of change differs."""
    resolved = Path(path).resolve()
    status = resolved.stat()
    return _sha256(str(resolved), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what a folder's manifest says, nothing where there is none that can be read."""
    try:
        return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):  # never written, or damaged: fetch again
        return {}


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write a folder's manifest whole or not at all."""
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    temporary.replace(folder / MANIFEST)


def entry_of(file: Path) -> Entry:
    """Return what a manifest says of a file."""
    return {"size": file.stat().st_size, "sha256": sha256_of(file)}


def intact(folder: Path, member: str | None = None) -> bool:
    """Tell whether `folder` holds `member`, or everything in its manifest, as it was first written."""
    files = _files(folder, member)
    return bool(files) and all(_fits(folder / name, entry) for name, entry in files.items())


def report_damage(folder: Path, member: str | None = None) -> None:
    """Warn of each file of `member`, or of the whole folder, that is no longer what its manifest says."""
    for name, entry in _files(folder, member).items():
        if not _fits(folder / name, entry):
            log.warning("the cached file %s is damaged or missing; fetching it again", folder / name)


def _files(folder: Path, member: str | None) -> dict[str, Entry]:
    """Return what the manifest says of `member`, or of everything."""
    files: dict[str, Entry] = read_manifest(folder).get("files", {})
    if member is None:
        return files
    return {name: entry for name, entry in files.items() if name == member or name.startswith(member.rstrip("/") + "/")}


def _fits(file: Path, entry: Entry) -> bool:
    return file.is_file() and file.stat().st_size == entry["size"] and sha256_of(file) == entry["sha256"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time fill `folder`; the lock of a process that died is free at once."""
    with exclusive(folder.parent / f".{folder.name}.lock", folder):
        yield


@contextmanager
def temporary_beside(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder`, on the same disk, so that what is finished can be renamed into place.

    The caller holds the lock of `folder`, so what lies there already was left by a process that was killed.
    """
    prefix = f".partial-{folder.name}-"
    for left in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def require_space(folder: Path, needed: int) -> None:
    """Raise :class:`AssetError` where the disk of `folder` has fewer than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise AssetError(
            f"no space on the disk of {folder}: {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free; "
            "choose another disk by cache_dir=<folder>"
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, a folder that cannot be written and the like into one line."""
    try:
        yield
    except OSError as error:
        hint = "choose another folder by cache_dir=<folder>"
        raise AssetError(f"{folder} cannot be written: {error.strerror or first_line(error)}; {hint}") from None
    except zipfile.BadZipFile as error:
        raise AssetError(f"{folder.name} is not a wheel: {first_line(error)}") from None
