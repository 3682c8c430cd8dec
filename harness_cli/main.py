"""The entry point: ``harness <command> …`` runs ``python -m harness.<command>`` or ``python -m analysis.<command>``."""

from __future__ import annotations

import difflib
import io
import re
import sys
from contextlib import redirect_stdout
from typing import NoReturn

from harness import __version__
from harness_cli import completion
from harness_cli.commands import Subcommand, all_of_them, find

HELP = """\
Compare fine-tuning methods: train sweeps, and read what their records say.

  harness run -m method=lora,qlora rank=8,16    train a sweep
  harness compare runs/                         which configuration is better, in what, and how surely
  harness <command> --help                      examples and options of a command

Commands
{commands}
  {completion:<14}Print the completion for a shell: eval "$(harness completion bash)"
"""


def main() -> None:
    """Run the command that the first argument names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(text(), end="")
        sys.exit(0 if arguments else 1)
    name, *rest = arguments
    if name in ("--version", "-V"):
        print(f"peft-harness {__version__}")
        return
    if name in completion.NAMES:
        completion.main(name, rest)
        return
    command = find(name)
    if command is None:
        refuse(arguments)
    sys.argv = [f"harness {name}", *rest]
    if {"--help", "-h"} & set(rest):
        _help(command)
        return
    command.start()


def text() -> str:
    """Return the help: every command with what it does."""
    commands = "\n".join(f"  {command.name:<14}{command.summary}" for command in all_of_them())
    return HELP.format(commands=commands, completion="completion")


def _help(command: Subcommand) -> None:
    """Print a command's help with its examples as this command is written."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            command.start()
    finally:
        print(re.sub(r"python -m (?:harness|analysis)\.(?=\w)", "harness ", printed.getvalue()), end="")


def refuse(arguments: list[str]) -> NoReturn:
    """Say in one line what is allowed; training was once written without ``run``."""
    name = arguments[0]
    names = [command.name for command in all_of_them()]
    if "=" in name or name.startswith("-"):
        said = f"to train, write harness run {' '.join(arguments)}"
    else:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        said = f"no such command; {f'did you mean {close[0]}? ' if close else ''}({', '.join(names)})"
    print(f"harness: {name}: {said}", file=sys.stderr)
    sys.exit(1)
