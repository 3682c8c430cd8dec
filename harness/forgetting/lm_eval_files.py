"""The local files that an lm-eval task file is made of: what it includes, modules of its functions, its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from harness.storage.privacy import expanded

DATA = ("data_files", "data_dir", "dataset_path")
"""Settings of lm-eval and of `datasets` that may name local data."""
IGNORED = ("__pycache__",)


class Function(str):
    """What ``!function module.name`` names."""


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a function stays a name: nothing is imported."""


Loader.add_constructor("!function", lambda loader, node: Function(loader.construct_scalar(node)))


def task_file(path: Path) -> dict[str, Path]:
    """Return a task file, named by nothing, and what it names at any depth, named as it is there."""
    return {"": path} | named_by(path, [])


def task_folder(folder: Path) -> dict[str, Path]:
    """Return every file below a folder of task files, by its name in there, and what the task files name."""
    found: dict[str, Path] = {}
    for path in below(folder):
        name = path.relative_to(folder).as_posix()
        found[name] = path
        if path.suffix in (".yaml", ".yml"):
            found |= {f"{name}/{other}": file for other, file in named_by(path, []).items()}
    return found


def below(folder: Path) -> list[Path]:
    """Return the files below a folder, without hidden ones and caches."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part in IGNORED for part in parts):
            found.append(path)
    return found


def named_by(path: Path, above: Sequence[Path]) -> dict[str, Path]:
    """Return what a task file names; `above` are the files that include it, so that a circle ends."""
    found: dict[str, Path] = {}
    above = [*above, path.resolve()]
    for key, value in entries(parsed(path)):
        if key == "include":
            found |= included(str(value), path.parent, above)
        elif key in DATA and isinstance(value, str):
            found |= {f"{value}/{other.name}": other for other in data(key, value)}
        elif isinstance(value, Function):
            module = value.rpartition(".")[0].replace(".", "/") + ".py"
            if (path.parent / module).is_file():  # else an installed module
                found[module] = path.parent / module
    return found


def included(name: str, folder: Path, above: Sequence[Path]) -> dict[str, Path]:
    """Return a file that a task file in `folder` includes, and what that one names."""
    path = folder / name
    if path.resolve() in above:
        return {}
    return {name: path} | {f"{name}/{other}": file for other, file in named_by(path, above).items()}


def data(key: str, name: str) -> list[Path]:
    """Return the local files of a data set: of a file, a folder or a pattern; none where it is on the hub."""
    path = expanded(name)
    if not name or (key == "dataset_path" and "/" not in name):
        return []  # json and csv are kinds of files, whatever folder has that name
    if path.is_dir():
        return below(path)
    if path.is_file():
        return [path]
    return [Path(found) for found in sorted(glob(str(path), recursive=True))]  # noqa: PTH207 takes any pattern


def entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is no list or mapping, with the key that it or its list stands under."""
    if isinstance(value, dict):
        for name, item in value.items():
            # Data files may be given by split: {data_files: {test: rows.jsonl}}.
            yield from entries(item, key if key == "data_files" else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from entries(item, key)
    else:
        yield key, value


def parsed(path: Path) -> Any:
    """Return what a file holds; nothing where it is not there or no YAML, which lm-eval says when it loads it."""
    try:
        return yaml.load(path.read_bytes(), Loader)
    except (OSError, yaml.YAMLError):
        return None
