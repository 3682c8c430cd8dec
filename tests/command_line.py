"""Command lines run inside the test's own process: a new one spends 2.5 s on imports, a command 0.2 s."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from weakref import WeakValueDictionary

from hydra.core.singleton import Singleton


@dataclass(frozen=True)
class Ended:
    """What a command printed and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def call(entry: Callable[[], object], *arguments: str | Path, cwd: Path | None = None) -> Ended:
    """Run a command's entry function as the interpreter would, and return what it printed and its exit code."""
    out, error = io.StringIO(), io.StringIO()
    with ExitStack() as around:
        around.enter_context(_as_in_a_process_of_its_own(cwd or Path.cwd()))
        around.enter_context(mock.patch.object(sys, "argv", ["command", *map(str, arguments)]))
        around.enter_context(redirect_stdout(out))
        around.enter_context(redirect_stderr(error))
        code = _exit_code(entry)
    return Ended(code, out.getvalue(), error.getvalue())


def _exit_code(entry: Callable[[], object]) -> int:
    """Return 0 where the function returns, else what it exits with; a text to exit with is printed, and is code 1."""
    try:
        entry()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    return 0


@contextmanager
def _as_in_a_process_of_its_own(cwd: Path) -> Iterator[None]:
    """Leave no trace: Hydra keeps its state in singletons, sets up logging and reads the working folder.

    Setting up logging closes every handler there is; absl's closes its stream too, which may be pytest's own stderr.
    """
    singletons, before = deepcopy(Singleton.get_state()), Path.cwd()
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    with (
        mock.patch.dict(os.environ, {"WANDB_MODE": "offline"}),
        mock.patch.object(logging, "_handlers", WeakValueDictionary()),
        mock.patch.object(logging, "_handlerList", []),
    ):
        os.chdir(cwd)
        try:
            yield
        finally:
            os.chdir(before)
            Singleton.set_state(singletons)
            root.handlers[:] = handlers
            root.setLevel(level)
