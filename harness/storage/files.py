"""Writing files so that no reader, and no power cut, ever sees half of one."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import AssetError


def write_bytes(path: Path, content: bytes, flush: bool = True) -> None:
    """Write `content` beside `path`, flush it to disk, then rename it over `path`.

    What can be made again and is checked when it is read needs no flush, which takes 1.5 ms.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        if flush:
            _flush_names(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity become null, which JSON has no other word for."""
    write_bytes(path, (json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def finite(value: Any) -> Any:
    """Return `value` with every float that JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill; it takes the place of `path` only once it is complete and on disk.

    Where filling it fails, nothing is left of it: a full disk has room again for the record that says so.
    """
    partial = path.with_name(f".{path.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                flush(file)
        _move(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _move(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`, whose place it takes."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    _flush_names(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove what a process that was killed had begun to write in `folder`."""
    for path in [*folder.glob(".*.part"), *folder.glob(".*.old")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def flush(file: Path) -> None:
    """Force a file's content to disk."""
    with file.open("r+b") as handle:
        os.fsync(handle.fileno())


def _flush_names(folder: Path) -> None:
    """Force a folder's list of names to disk; Windows has no such call and does so by itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_writable(folder: Path, least_bytes: int) -> None:
    """Raise an :class:`AssetError` unless `folder` can be written and has room, before anything expensive."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.write_bytes(b"0")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise AssetError(f"output_dir={folder}: {error.strerror or error}") from None
    if free < least_bytes:
        raise AssetError(
            f"output_dir={folder}: {free / 2**20:.0f} MiB free on the disk, "
            f"at least {least_bytes / 2**20:.0f} MiB needed"
        )


def disk_full(error: BaseException) -> bool:
    """Return whether an error says that the disk or the quota is full; safetensors says so in words only."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in codes or any(os.strerror(code) in str(error) for code in codes)
