"""``processes=n`` outside of torchrun: the run's processes are started here, by torch's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import active_children, resource_tracker
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
from harness.training import stop

T = TypeVar("T")
Execute = Callable[[RunConfig], Status | None]
"""``harness.execution.execute.execute``, which calls this module."""
SHUTDOWN_SECONDS = 5
"""How long the other processes have to end in order once one is lost."""
DEADLY = [name for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
"""Signals by which torch's launcher ends the processes at once."""
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Stopped:
    """What a process returns in the place of a status that was told to stop and can go on."""

    signal: int


def in_processes(config: RunConfig, execute: Execute) -> Status | None:
    """Execute a run by several processes of this host, and return how it ended; None as :func:`execute` does."""
    numbers = stop.watched() if hasattr(signal, "pthread_sigmask") else ()  # Windows has no signals to hand on
    try:
        with stop.noted(), _handed_on(numbers, config.processes):
            found = start(config.processes, work, config, execute, numbers)[0]
    except SignalException as error:  # the launcher's own word for Ctrl-C and SIGTERM
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        if (number := stop.told()) is not None:  # one waited in vain for another, which had stopped
            raise stop.Preempted(number) from error
        rank, failure = error.get_first_failure()
        return _ended(config, f"rank {rank} of {config.processes} died ({failure.signal_name()})")
    if isinstance(found, Stopped):
        raise stop.Preempted(found.signal)
    return found


@contextmanager
def _handed_on(numbers: Sequence[int], processes: int) -> Iterator[None]:
    """Hand a signal on to the processes that are started inside, which hold it back until they can obey.

    They inherit what the main thread holds back, and so does Python's tracker of shared resources; starting it lets
    SIGTERM through.
    """
    if not numbers:
        yield
        return
    stop.hold_back(numbers)
    resource_tracker.ensure_running()
    stop.hold_back(numbers)
    ended = threading.Event()
    thread = threading.Thread(target=_hand_on, args=(numbers, processes, ended), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        stop.let_through(numbers)


def _hand_on(numbers: Sequence[int], processes: int, ended: threading.Event) -> None:
    stop.let_through(numbers)  # to this thread; Python calls the handler in the main one
    sent: set[int | None] = set()
    while not ended.wait(POLL_SECONDS):
        if (number := stop.told()) is None or len(sent) == processes:
            continue
        for child in active_children():
            if child.pid is not None and child.pid not in sent:
                sent.add(child.pid)
                with suppress(ProcessLookupError):
                    os.kill(child.pid, number)


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
        signals_to_handle=",".join(name for name in DEADLY if getattr(signal, name) not in stop.watched()),
    )
    with _quiet(), _handlers_kept():
        return elastic_launch(settings, function)(*arguments)  # type: ignore[no-any-return]


def work(config: RunConfig, execute: Execute, numbers: Sequence[int] = ()) -> Status | Stopped | None:
    """Do one process's part of the run; signals of these numbers stop it in order."""
    for number in numbers:
        signal.signal(number, _late)
    try:
        with joined(config.train.use_cpu), stop.on_signals(numbers) if numbers else nullcontext():
            return execute(config)
    except stop.Preempted as told:
        return Stopped(told.signal)


def _late(_number: int, _frame: Any) -> None:
    """Do nothing: this process's part is done, and it waits for the others."""


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
def _handlers_kept() -> Iterator[None]:
    """Put back the handlers that torch's launcher sets and leaves: a later run's Ctrl-C raised its own error."""
    main = threading.current_thread() is threading.main_thread()
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in DEADLY} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
