"""The installed command: every command line by its name, the old spelling answered, completion in a real shell."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_line import Ended, call

import harness.plan
import harness.run  # noqa: F401  # registers with Hydra once, which `call` would undo
from harness import __version__
from harness_cli.commands import all_of_them, find
from harness_cli.completion import words
from harness_cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
COMMANDS = [one.name for one in all_of_them()]


def command(*arguments: str, cwd: Path | None = None) -> Ended:
    return call(main, *arguments, cwd=cwd)


def test_every_command_line_is_a_subcommand_and_nothing_else() -> None:
    assert {"run", "plan", "export", "table", "compare", "report", "advise", "serving"} <= set(COMMANDS)
    documented = set()
    for package in ("harness", "analysis"):
        for path in (ROOT / package).glob("*.py"):
            if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"):
                documented.add(path.stem)
    assert set(COMMANDS) == documented
    assert len(COMMANDS) == len(documented)  # no name in both packages
    assert find("sweep") is None and find("../run") is None


def test_the_installed_script_is_this_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert list(scripts) == ["harness"]
    module, _, name = scripts["harness"].partition(":")
    assert getattr(importlib.import_module(module), name) is main


def test_help_lists_the_commands_with_what_they_do() -> None:
    ended = command("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in ended.stdout.partition("Commands\n")[2].splitlines())
    assert set(lines) == {*COMMANDS, "completion"}
    assert all(len(said) > 20 for said in lines.values())
    assert command().returncode == 1
    assert command("--version").stdout == f"peft-harness {__version__}\n"


@pytest.mark.parametrize("name", ["table", "plan", "export", "run"])
def test_a_commands_help_is_written_as_it_is_called(name: str) -> None:
    ended = command(name, "--help")
    assert ended.returncode == 0
    assert f"  harness {name} " in ended.stdout and "python -m" not in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["method=lora", "rank=8"], "harness: method=lora: to train, write harness run method=lora rank=8\n"),
        (["-m", "rank=8,16"], "harness: -m: to train, write harness run -m rank=8,16\n"),
        (["tabel", "runs/"], "harness: tabel: no such command; did you mean table? ("),
        (["table", "no_such_folder"], "table: runs=no_such_folder: there is no such folder\n"),
        (["export", "to=x"], "export: run=: must be given"),
        (["completion", "tcsh"], "harness: completion tcsh: must be one of bash, zsh, fish\n"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    ended = command(*arguments, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith(line) and ended.stderr.count("\n") == 1 and not ended.stdout


@pytest.mark.slow
def test_run_composes_as_the_module_does(tmp_path: Path) -> None:
    ended = command("run", "-m", "method=full,lora", "rank=8,16", "dry_run=true", cwd=tmp_path)
    assert ended.stdout.splitlines()[-1] == "3 runs, 1 duplicates left out: 3 to train, 0 not"


def test_help_imports_no_command() -> None:
    code = "import sys; from harness_cli.main import text; text(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"hydra", "torch", "analysis", "pandas", "harness.run"} & set(loaded.stdout.split())


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("harness ru", ["run "]),
        ("harness comp", ["compare ", "completion "]),
        ("harness table runs/ ra", ["rates="]),
        ("harness export me", ["merge="]),
        ("harness nothing x", []),
        ("harness run method=lo", ["method=lora"]),
        ("harness plan -m rank=8 train.max_st", ["train.max_steps="]),
    ],
)
def test_completion_offers_what_may_come_next(line: str, wanted: list[str]) -> None:
    assert set(wanted) <= set(words(line)) and bool(words(line)) == bool(wanted)
    assert all(word.startswith(line.rpartition(" ")[2]) for word in words(line))


@pytest.mark.slow
@pytest.mark.parametrize("line", ["harness ru", "harness run method=qlo"])
def test_completion_works_in_bash(line: str, tmp_path: Path) -> None:
    shim = tmp_path / "harness"
    shim.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m harness_cli "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    script = f"""
PATH="{tmp_path}:$PATH"
eval "$(harness completion bash)"
COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}
_harness
printf '[%s]' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == ("[run ]" if line.endswith("ru") else "[method=qlora]")
