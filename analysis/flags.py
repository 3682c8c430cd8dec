"""Command lines with flags: what is wrong is one line, ``<command>: <what>``, and exit code 1."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import ClassVar, NoReturn


class Parser(ArgumentParser):
    """An argument parser that says in one line what it cannot take; a subclass says for which command."""

    command: ClassVar[str]

    def error(self, message: str) -> NoReturn:
        """Print one line and exit."""
        fail(self.command, message)


def fail(command: str, line: str) -> NoReturn:
    """Print what is wrong and exit with code 1, as every command of this project does."""
    print(f"{command}: {line}", file=sys.stderr)
    sys.exit(1)
