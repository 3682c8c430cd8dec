"""Every command line of the analysis: one style, one ``--help`` with examples that work, mistakes in one line."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from command_line import call

from analysis.command import Command
from harness.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = [path.stem for path in sorted((ROOT / "analysis").glob("*.py"))]
NAMES = [name for name in FILES if name not in ("__init__", "command", "errors")]
HEAVY = ("torch", "transformers", "pandas", "altair", "pyarrow", "scipy")


def command(name: str) -> Command:
    return importlib.import_module(f"analysis.{name}").COMMAND


def test_there_is_a_command_for_each_verb() -> None:
    verbs = {"table", "compare", "figures", "report", "intruders", "interventions", "subspaces", "wandb", "peft_suite"}
    assert verbs <= set(NAMES) and {command(name).name for name in NAMES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_has_every_option_and_ends_well(name: str) -> None:
    ended = call(command(name).main, "--help")
    assert ended.returncode == 0 and ended.stderr == ""
    options = {field.name for field in fields(command(name).settings)} - {command(name).rest}
    said = set(re.findall(r"^  (\w+)(?=  )", ended.stdout, flags=re.MULTILINE))
    assert said == options
    assert call(command(name).main).returncode == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_help_are_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("runs", "peft/method_comparison/results"):
        (tmp_path / folder).mkdir(parents=True)
    for run in ("one", "two"):
        (tmp_path / "runs" / run).mkdir()
        (tmp_path / "runs" / run / "record.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    lines = re.findall(rf"^  python -m analysis\.{name} (.*)$", command(name).usage, flags=re.MULTILINE)
    assert lines
    for line in lines:
        example = re.split(r"   +", line)[0].replace("<id or folder>", "one")
        ids = iter(("one", "two"))
        example = re.sub("<[a-z]+>", lambda found: next(ids) if found[0] == "<id>" else "runs", example)  # noqa: B023
        command(name).parse(shlex.split(example))


@pytest.mark.parametrize("name", NAMES)
def test_flags_of_old_are_answered_with_the_new_spelling(name: str) -> None:
    first = next(field.name for field in fields(command(name).settings) if field.name != command(name).rest)
    with pytest.raises(ConfigError) as caught:
        command(name).parse([f"--{first}", "x"])
    assert str(caught.value) == f"--{first}=: write {first}=<value>"
    with pytest.raises(ConfigError, match=rf"write {first}=x$"):
        command(name).parse([f"--{first}=x"])


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_is_one_line_before_anything_heavy_loads(name: str) -> None:
    code = f"""
import sys
from analysis.{name} import COMMAND
sys.argv = ["x", "no_such_option=1"]
try:
    COMMAND.main()
finally:
    print([one for one in {HEAVY} if one in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("[]\n", 1)
    assert done.stderr.startswith(f"{name}: no_such_option=1: no such option; ") and done.stderr.count("\n") == 1
