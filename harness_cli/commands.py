"""The subcommands: every file of `harness` and `analysis` that is a command line, found without importing it.

`harness` must not import `analysis`, so this package stands beside both.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

PACKAGES = ("harness", "analysis")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Subcommand:
    """A command line in a file of its own: a function `cli`, or a `COMMAND` of the analysis."""

    package: str
    name: str

    @property
    def path(self) -> Path:
        """Return the file."""
        return ROOT / self.package / f"{self.name}.py"

    @cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def exists(self) -> bool:
        """Return whether there is such a file and it is a command line."""
        return self.path.is_file() and bool({"cli", "COMMAND"} & _defined(self._tree).keys())

    @property
    def summary(self) -> str:
        """Return what the command does: the first line of its help, or of its docstring where that is no constant."""
        usage = getattr(_defined(self._tree).get("USAGE"), "value", None)
        said = usage if isinstance(usage, str) else ast.get_docstring(self._tree)
        return (said or "").partition("\n")[0]

    @cached_property
    def module(self) -> Any:
        """Return the module, which is imported now."""
        return importlib.import_module(f"{self.package}.{self.name}")

    @property
    def start(self) -> Callable[[], object]:
        """Return the function that reads ``sys.argv`` and runs."""
        return self.module.cli if hasattr(self.module, "cli") else self.module.COMMAND.main  # type: ignore[no-any-return]


def _defined(tree: ast.Module) -> dict[str, ast.expr | None]:
    """Return the names that a file defines at its top, with what is assigned to them."""
    found: dict[str, ast.expr | None] = {
        node.name: None for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
    return found


def find(name: str) -> Subcommand | None:
    """Return the subcommand of this name, None where there is none."""
    if not name.isidentifier():
        return None
    named = (Subcommand(package, name) for package in PACKAGES)
    return next((one for one in named if one.exists), None)


def all_of_them() -> list[Subcommand]:
    """Return every subcommand, those of `harness` first."""
    files = [(package, path.stem) for package in PACKAGES for path in sorted((ROOT / package).glob("*.py"))]
    return [one for package, name in files if (one := Subcommand(package, name)).exists]
