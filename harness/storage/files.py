"""Writing files so that no reader, and no power cut, ever sees half of one."""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import platform
import re
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
    partial = _partial(path)
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


def _partial(path: Path) -> Path:
    """Return the name under which this process alone writes what becomes `path`."""
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.part")


def _host() -> str:
    """Return this host's name as a part of a file's name, without the dots that separate the parts."""
    return re.sub(r"[^\w-]", "-", platform.node()) or "host"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill; it takes the place of `path` only once it is complete and on disk.

    Where filling it fails, nothing is left of it: a full disk has room again for the record that says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    partial = _partial(path)
    partial.mkdir()
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                flush(file)
        _move(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        _recover(_old(path))
        raise


def _remove_abandoned(path: Path) -> None:
    """Remove what processes of this host that are gone, or an earlier try of this one, had begun to write of `path`."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        host, _, pid = partial.name.removeprefix(f".{path.name}.").removesuffix(".part").rpartition(".")
        if host == _host() and pid.isdecimal() and (int(pid) == os.getpid() or not process_runs(int(pid))):
            _remove(partial)


def process_runs(pid: int) -> bool:
    """Return whether there is a process with this id on this host."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _move(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`, whose place it takes; what was there is ``.<name>.old`` for a moment."""
    old = _old(path)
    _recover(old)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    _flush_names(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _recover(old: Path) -> None:
    """Put back what a process that was killed between two renames left as the only copy; remove it otherwise."""
    path = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
    if old.exists() and not path.exists():
        old.rename(path)
        _flush_names(path.parent)
    _remove(old)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what a process that was killed had begun to write in `folder`, and put back what it was replacing.

    The caller holds the lock of `folder`, so no process that lives is writing there.
    """
    for old in folder.glob(".*.old"):
        _recover(old)
    for path in folder.glob(".*.part"):
        _remove(path)


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
