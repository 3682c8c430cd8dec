"""A run in a process of its own: ``python -m harness.launching.child <result file>``, its configuration on stdin.

The other end of stdin stays open while the process that started this one lives; it ends as Ctrl-C ends it once that is
gone, however it went.
"""

from __future__ import annotations

import json
import logging.config
import os
import pickle
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import progress
from harness.config import RunConfig
from harness.storage.locks import interrupt

LENGTH_BYTES = 8


@dataclass(frozen=True)
class ChildArguments:
    """What a run's process is given."""

    config: RunConfig
    logging: dict[str, Any]
    """Hydra's ``job_logging``."""
    others: bool
    """Whether other runs write to the same terminal."""

    def sent(self) -> bytes:
        """Return what stdin gets."""
        content = pickle.dumps(self)
        return len(content).to_bytes(LENGTH_BYTES, "big") + content


def _received() -> ChildArguments:
    size = int.from_bytes(_read(LENGTH_BYTES), "big")
    given: ChildArguments = pickle.loads(_read(size))  # noqa: S301  # from the process that started this one
    return given


def _read(size: int) -> bytes:
    """Read from the descriptor itself: a thread that waits inside of sys.stdin keeps the interpreter from ending."""
    found = b""
    while len(found) < size:
        part = os.read(0, size - len(found))
        if not part:
            sys.exit(130)  # the parent is gone before anything began
        found += part
    return found


def _end_with_parent() -> None:
    if not os.read(0, 1):
        interrupt()


def main(result: Path) -> None:
    """Execute the run, and write how it stands where nothing ended it before."""
    given = _received()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.config.dictConfig(given.logging)
    if given.others:
        progress.share_terminal()
    from harness.execution.execute import execute  # torch and transformers load here
    from harness.training.stop import on_signals

    with on_signals([signal.SIGTERM]):
        status = execute(given.config)
    result.write_text(json.dumps(None if status is None else status.value), encoding="utf-8")


if __name__ == "__main__":
    # As __main__ its class could not be found by the pickle of the process that started it.
    from harness.launching.child import main as imported_main

    try:
        imported_main(Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
