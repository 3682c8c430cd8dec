"""The commands that the pages on the command and on serving show are read by the command lines themselves."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command_line import call

import harness.run  # noqa: F401  # registers with Hydra once, which `call` would undo
from harness.export import parse
from harness_cli.commands import find
from harness_cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ("command.md", "serving.md")


def commands() -> list[list[str]]:
    """Return the subcommands with their arguments, of whichever spelling."""
    shell = "\n".join(
        block
        for page in PAGES
        for block in re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), flags=re.DOTALL)
    )
    lines = [re.sub(r"^python -m (harness|analysis)\.", "harness ", line) for line in shell.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("harness ")]


def test_the_pages_have_commands() -> None:
    assert {"run", "table", "compare", "report", "export", "serving"} <= {name for name, *_ in commands()}


@pytest.mark.parametrize("given", commands(), ids=" ".join)
def test_a_command_of_the_pages_is_read(given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *arguments = given
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    if name == "run":
        ended = call(main, name, *arguments, "dry_run=true", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    elif name == "export":
        parse(arguments)
    else:
        command = find(name)
        assert command is not None
        command.module.COMMAND.parse(arguments)
