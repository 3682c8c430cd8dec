"""Shell completion: the shell hands over the line, and gets the words that may come next."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from unittest import mock

from harness_cli.commands import Subcommand, all_of_them, find

NAMES = ("completion", "complete")
BASH = """\
_harness() {
  local IFS=$'\\n'
  COMPREPLY=($(harness complete "${COMP_LINE:0:$COMP_POINT}" 2>/dev/null))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _harness harness
"""
SCRIPTS = {
    "bash": BASH,
    "zsh": "autoload -U +X bashcompinit && bashcompinit\n" + BASH,
    "fish": "complete -c harness -a '(harness complete (commandline -cp))'\n",
}


def main(name: str, arguments: list[str]) -> None:
    """Print a shell's script for ``completion <shell>``, and for ``complete <line>`` the words that fit."""
    if name == "complete":
        print("\n".join(words(" ".join(arguments))))
        return
    shell = arguments[0] if arguments else ""
    if shell not in SCRIPTS:
        print(f"harness: completion {shell}: must be one of {', '.join(SCRIPTS)}", file=sys.stderr)
        sys.exit(1)
    print(SCRIPTS[shell], end="")


def words(line: str) -> list[str]:
    """Return what may stand at the end of the line; nothing leaves it to the shell, which knows files."""
    before, _, word = line.rpartition(" ")
    given = before.split()
    if len(given) < 2:
        names = [f"{command.name} " for command in all_of_them()] + ["completion "]
        return [name for name in names if name.startswith(word)]
    command = find(given[1])
    if command is None:
        return []
    offered = _hydra(line.split(maxsplit=2)[2:]) if _composes(command) else _options(command)
    return [option for option in offered if option.startswith(word)]


def _composes(command: Subcommand) -> bool:
    """Return whether a command's keys are those of the configuration, which Hydra completes."""
    return command.name in ("run", "plan")


def _options(command: Subcommand) -> list[str]:
    """Return the keys of a command that has them as the fields of a dataclass."""
    settings = getattr(getattr(command.module, "COMMAND", None), "settings", getattr(command.module, "Request", None))
    return [f"{field.name}=" for field in fields(settings)] if settings is not None else []


def _hydra(rest: list[str]) -> list[str]:
    """Return what Hydra's own completion offers for the words after the command."""
    from harness.run import cli

    printed = io.StringIO()
    line = {"COMP_LINE": " ".join(["harness", *rest]) if rest else "harness "}
    arguments = mock.patch.object(sys, "argv", ["harness", "-sc", "query=bash"])
    with mock.patch.dict(os.environ, line), arguments, redirect_stdout(printed), redirect_stderr(io.StringIO()):
        cli()
    return printed.getvalue().split()
