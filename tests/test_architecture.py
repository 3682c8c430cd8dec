"""What may import what, what may know of methods, and what must not be loaded to answer a typing error."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import harness.methods
import harness.tasks
from harness.methods.base import METHODS
from harness.tasks.base import TASKS, Task

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "wandb",
    "trackio",
    "tensorboardX",
    "datasets",
    "evaluate",
    "pyarrow",
    "scipy",
    "sklearn",
    "accelerate",
)


def imports(path: Path) -> Iterator[str]:
    """Yield the full names of the modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            yield str(node.module)


def runtime_imports(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that a file imports when it runs: those for types alone make no cycle."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from runtime_imports(node)


def test_no_module_of_the_harness_imports_itself_by_way_of_others() -> None:
    files = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "harness").rglob("*.py")}
    modules = set(files.values())
    graph = {
        name: {
            found for found in runtime_imports(ast.parse(path.read_text(encoding="utf-8"))) if found in modules - {name}
        }
        for path, name in files.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


@pytest.mark.parametrize("package", ["harness", "hydra_plugins"])
def test_harness_never_imports_analysis(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path)} & {"analysis", "scripts", "tests", "harness_cli"}
        assert found == set(), path


def test_the_analysis_and_the_command_are_told_apart() -> None:
    """The installed command starts both packages by name: neither knows it, and it imports no part of the analysis."""
    for path in (ROOT / "analysis").rglob("*.py"):
        assert "harness_cli" not in {name.split(".")[0] for name in imports(path)}, path
    for path in (ROOT / "harness_cli").rglob("*.py"):
        assert "analysis" not in {name.split(".")[0] for name in imports(path)}, path


@pytest.mark.parametrize(
    "place", ["training", "execution", "storage", "objectives", "tasks", "planning", "run.py", "sweep.py", "plan.py"]
)
def test_no_method_is_known_by_name(place: str) -> None:
    found = ROOT / "harness" / place
    for path in [found] if found.is_file() else sorted(found.glob("*.py")):
        require_no_method(path)


def require_no_method(path: Path) -> None:
    METHODS.discover(harness.methods)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {name for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute) for name in [_name(node)]}
    ordinary = {"prompt"}  # also what a decoder is shown
    assert strings & set(METHODS.names()) <= ordinary, path
    assert not {name for name in imports(path) if name.startswith("harness.methods.")} - {"harness.methods.base"}, path
    assert names & {METHODS[name].__name__ for name in METHODS.names()} == set()


@pytest.mark.parametrize(
    "place", ["objectives", "forgetting", "execution", "training", "storage", "planning", "export.py"]
)
def test_no_kind_of_task_is_known(place: str) -> None:
    """A kind of task is one file: what trains, answers and measures asks its contract and never what it is."""
    TASKS.discover(harness.tasks)
    modules = {TASKS[name].__module__ for name in TASKS.names()}
    assert len(modules) >= 5
    found = ROOT / "harness" / place
    for path in [found] if found.is_file() else sorted(found.rglob("*.py")):
        assert not {name for name in every_import(path) if name in modules}, path
        assert checked_types(path) & {kind.__name__ for kind in subclasses(Task)} == set(), path


def every_import(path: Path) -> Iterator[str]:
    """Yield what a file imports, also as ``from harness.tasks import classification``."""
    yield from imports(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def checked_types(path: Path) -> set[str]:
    """Return the names of the classes that a file checks by isinstance or issubclass."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    checks = [call for call in calls if getattr(call.func, "id", None) in ("isinstance", "issubclass")]
    inside = [node for call in checks for argument in call.args[1:] for node in ast.walk(argument)]
    return {_name(node) for node in inside if isinstance(node, ast.Name | ast.Attribute)}


def subclasses(cls: type) -> Iterator[type]:
    """Yield all subclasses of a class, at any depth."""
    for one in cls.__subclasses__():
        yield from (one, *subclasses(one))


def test_the_analysis_knows_no_method_by_name() -> None:
    METHODS.discover(harness.methods)
    names = set(METHODS.names()) - {"peft"}  # which is the library's too
    for path in (ROOT / "analysis").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert strings & names == set(), path


def _name(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


@pytest.mark.parametrize(
    "module", ["run", "status", "plan", "compose", "sweep", "config", "storage.record", "identity", "tracking"]
)
def test_configuration_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, harness.{module}; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_methods_and_tasks_import_the_heavy_inside_functions_only() -> None:
    for folder in ("methods", "tasks"):
        for path in (ROOT / "harness" / folder).glob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
            names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
            assert not {name.split(".")[0] for name in names} & set(HEAVY), path
