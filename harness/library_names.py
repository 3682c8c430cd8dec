"""The names a library knows, read from its source without importing it.

Importing transformers or peft takes seconds; a misspelt optimiser must be refused within one. The
names still come from the installed version, so they cannot drift from what it accepts.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path


@cache
def enum_values(package: str, module: str, name: str) -> tuple[str, ...]:
    """Return the string values of the enum `name` in ``package/module.py``, sorted."""
    body = _class_body(package, module, name)
    values = [
        node.value.value for node in body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    ]
    return tuple(sorted(str(value) for value in values))


@cache
def field_names(package: str, module: str, name: str) -> tuple[str, ...]:
    """Return the annotated fields of the dataclass `name` in ``package/module.py``, sorted."""
    body = _class_body(package, module, name)
    return tuple(sorted(n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)))


def _class_body(package: str, module: str, name: str) -> list[ast.stmt]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"{package} is not installed")
    source = Path(spec.origin).parent / f"{module}.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node.body
    raise ImportError(f"{package}.{module} has no class {name}")
