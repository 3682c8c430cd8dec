"""The capability matrix: what every method and tuner can do, tried once for each set of library versions and kept."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import harness.methods
import harness.tuners
from harness.identity import digest, plain
from harness.library_names import enum_values
from harness.methods.base import METHODS, Method
from harness.runtime import versions
from harness.storage.assets import cache_root
from harness.storage.files import write_json

if TYPE_CHECKING:
    from analysis.views.advise.tiny import Kind
    from analysis.views.advise.trials import Capabilities

FOLDER = "capabilities"
GENERIC = "peft"
"""The method that stands for any tuner of the library."""
Matrix = dict[tuple[str, "Kind"], "Capabilities"]


def of(method: Method, kind: Kind, cache_dir: str | None = None) -> Capabilities:
    """Return what a method can do on a kind of model: from the cache, or tried now and kept there."""
    from analysis.views.advise.trials import capabilities, small

    said = plain(small(method)) | {"name": method.name, "learning_rate": None}
    key = digest([said, kind.value, versions(), sources()])
    file = cache_root(cache_dir) / FOLDER / f"{key}.json"
    kept = _kept(file)
    if kept is not None:
        return kept
    found = capabilities(method, kind)
    write_json(file, {"method": said, "model": kind.value, "versions": versions(), "found": asdict(found)})
    return found


def _kept(file: Path) -> Capabilities | None:
    """Return what an earlier call found, None where there is none or the file is damaged."""
    from analysis.views.advise.trials import NAMES, Capabilities, Tried

    try:
        stored = json.loads(file.read_text(encoding="utf-8"))["found"]
        return Capabilities(**{name: Tried(*stored[name]) for name in NAMES})
    except (OSError, ValueError, KeyError, TypeError):
        return None


@cache
def sources() -> str:
    """Return a hash of the code of methods, tuners and trials: a method that was changed is tried again."""
    import analysis.views.advise

    packages = (harness.methods, harness.tuners, analysis.views.advise)
    files = sorted(path for package in packages for path in _folder(package).glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _folder(package: ModuleType) -> Path:
    return Path(inspect.getfile(package)).parent


def registered() -> Iterator[tuple[str, Method]]:
    """Yield every method file's method at its defaults, but for the one that stands for any tuner."""
    METHODS.discover(harness.methods)
    for name in METHODS.names():
        if name != GENERIC:
            yield name, default(name)


def default(name: str, **options: Any) -> Method:
    """Return a method at its defaults, at rank 8 where it has one."""
    cls: Any = METHODS[name]
    rank = {"rank": 8} if any(field.name == "rank" for field in fields(cls)) else {}
    return cls(**rank, **options)  # type: ignore[no-any-return]


def tuners() -> Iterator[tuple[str, Method]]:
    """Yield every other tuner of the installed PEFT, at PEFT's defaults."""
    METHODS.discover(harness.methods)
    for name in enum_values("peft", "utils/peft_types", "PeftType"):
        yield f"{GENERIC} {name}", default(GENERIC, peft_type=name)


def matrix(methods: Iterable[tuple[str, Method]], kinds: Iterable[Kind], cache_dir: str | None = None) -> Matrix:
    """Return what each of these methods can do on each kind of model."""
    kinds = list(kinds)
    return {(name, kind): of(method, kind, cache_dir) for name, method in methods for kind in kinds}


def rows(found: Matrix) -> list[dict[str, str]]:
    """Return the matrix as text, a row a method and kind of model: yes, no, or ? where it could not be tried."""
    words = {True: "yes", False: "no", None: "?"}
    return [
        {"method": name, "model": kind.value}
        | {key.replace("_", " "): words[one[0]] for key, one in vars(capabilities).items()}
        | {"note": _why(capabilities)}
        for (name, kind), capabilities in found.items()
    ]


def _why(found: Capabilities) -> str:
    """Return why it does not apply or cannot be tried, else why the first thing failed that most methods can do."""
    asked = (found.applies, found.trains, found.trains_on_4_bit, found.mergeable, found.swappable)
    return next((one.why for one in asked if not one.fine), "")
