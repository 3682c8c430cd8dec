"""``processes=n`` outside of torchrun: the run's processes are started here, by torch's own launcher."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from harness import identity, progress
from harness.config import RunConfig
from harness.distributed.membership import joined
from harness.errors import RecordError
from harness.storage.record import RunFolder, Status

T = TypeVar("T")
Execute = Callable[[RunConfig], Status | None]
"""``harness.execution.execute.execute``, which calls this module."""
SHUTDOWN_SECONDS = 5
"""How long the other processes have to end in order once one is lost."""


def in_processes(config: RunConfig, execute: Execute) -> Status | None:
    """Execute a run by several processes of this host, and return how it ended; None as :func:`execute` does."""
    try:
        return start(config.processes, work, config, execute)[0]
    except SignalException as error:  # the launcher's own word for Ctrl-C and SIGTERM
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _ended(config, f"rank {rank} of {config.processes} died ({failure.signal_name()})")


def start(processes: int, function: Callable[..., T], *arguments: Any) -> dict[int, T]:
    """Call a function in so many new processes, and return what it returned by rank.

    torch's launcher starts them as torchrun does, so that a run has one way into a group. Where one dies it ends the
    others and raises ChildFailedError.
    """
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        local_addr="localhost",
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    with _quiet():
        return elastic_launch(settings, function)(*arguments)  # type: ignore[no-any-return]


def work(config: RunConfig, execute: Execute) -> Status | None:
    """Do one process's part of the run."""
    with joined(config.train.use_cpu):
        return execute(config)


def _ended(config: RunConfig, reason: str) -> Status:
    """Return how a run stands whose processes were ended; those that lived have written why, if any did."""
    folder = RunFolder(config.output_dir, identity.run_id(config))
    with folder.lock(wait=True):
        try:
            record = folder.read()
        except RecordError as error:
            progress.say(f"{folder.id}: failed: {error}")
            return Status.failed
        if record is not None and record["status"] == Status.running:
            folder.fail(reason)
            progress.say(f"{folder.id}: failed: {reason}")
    return Status.failed


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's launcher from printing what a record says better, and its processes from inheriting a group."""
    log = logging.getLogger("torch.distributed.elastic")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with patch.dict(os.environ, {"TORCH_CPP_LOG_LEVEL": "ERROR"}):
            yield
    finally:
        log.setLevel(level)
