"""Runs side by side on this machine: each a process of its own, on a GPU of its own where there are any.

A fault of CUDA ends its process and none after it. Processes that share cores divide them: two that both take all make
each other many times slower, because torch's threads spin while they wait.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.config import RunConfig, require
from harness.launching import lost
from harness.launching.child import ChildArguments

AUTO = "auto"
POLL_SECONDS = 0.1
GRACE_SECONDS = 30.0
"""How long a run has to end in order after Ctrl-C; writing a checkpoint and telling the tracker takes seconds."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Place:
    """What one of the runs side by side has of the machine."""

    gpu: str | None
    threads: int

    def environment(self) -> dict[str, str]:
        """Return the variables that keep a process to it; a number of threads that the user set stays."""
        threads = {} if THREADS[0] in os.environ else {name: str(self.threads) for name in THREADS}
        return threads | ({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})


def require_jobs(asked: object) -> None:
    """Raise :class:`ConfigError` unless a number of runs side by side is ``auto`` or at least 1."""
    fine = asked == AUTO or (isinstance(asked, int) and not isinstance(asked, bool) and asked >= 1)
    require(fine, "hydra.launcher.n_jobs", asked, "must be auto or at least 1")


def places(asked: int | str, gpus: Sequence[str], cores: int, runs: int) -> list[Place]:
    """Return what each of the runs side by side has: ``auto`` is one a GPU, or without GPUs one a core.

    More runs than GPUs share them in turn; cores are divided, and each has one at least.
    """
    require_jobs(asked)
    count = min(runs, (len(gpus) or cores) if asked == AUTO else int(asked))
    return [Place(gpus[number % len(gpus)] if gpus else None, max(1, cores // count)) for number in range(count)]


def width(config: RunConfig) -> int:
    """Return how many places a run takes: one for each of its processes."""
    return int(getattr(config, "processes", 1))


@dataclass
class Child:
    """A run's process."""

    number: int
    config: RunConfig
    places: list[Place]
    process: subprocess.Popen[bytes]
    result: Path

    def ended(self) -> bool:
        """Return whether the process is gone."""
        return self.process.poll() is not None

    def outcome(self) -> str | None:
        """Return the run's status, None where another process holds it; what is left of a lost one is ended."""
        self.hang_up()
        if self.result.exists():
            status: str | None = json.loads(self.result.read_text(encoding="utf-8"))
            return status
        self.send(signal.SIGKILL)
        return lost.fail(self.config, f"its process ended: {_how(self.process.returncode)}").value

    def hang_up(self) -> None:
        """Close this end of the process's stdin."""
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()

    def send(self, number: int) -> None:
        """Send a signal to the process and all that it started; they are a group of their own."""
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, number)
            else:
                self.process.terminate()


def _how(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            name = signal.Signals(-code).name
            return f"{name}, out of memory?" if name == "SIGKILL" else name
    return f"exit code {code}"


@dataclass
class Pool:
    """Places on this machine, and the runs that have them."""

    free: list[Place]
    logging: dict[str, Any]
    command: Callable[[Path], Sequence[str]] = lambda result: [
        sys.executable,
        "-m",
        "harness.launching.child",
        str(result),
    ]
    """The command of a run's process, by its result file."""

    def run(self, configs: Sequence[RunConfig]) -> list[str | None]:
        """Run all, as many side by side as have places; return each one's status, None where another holds it.

        Ctrl-C ends all of them as it ends one, and is raised again once they are gone.
        """
        waiting, running = list(enumerate(configs)), list[Child]()
        statuses: list[str | None] = [None] * len(configs)
        shared = len(self.free) > 1
        with TemporaryDirectory() as folder:
            try:
                while waiting or running:
                    running += self._started(waiting, Path(folder), shared)
                    time.sleep(POLL_SECONDS)
                    for child in [child for child in running if child.ended()]:
                        running.remove(child)
                        self.free += child.places
                        statuses[child.number] = child.outcome()
            except BaseException:
                end(running)
                raise
        return statuses

    def _started(self, waiting: list[tuple[int, RunConfig]], folder: Path, shared: bool) -> list[Child]:
        """Start the runs at the head of the queue that have room; one that needs more waits until others end."""
        started: list[Child] = []
        while waiting and width(waiting[0][1]) <= len(self.free):
            number, config = waiting.pop(0)
            mine = [self.free.pop(0) for _ in range(width(config))]
            started.append(
                self._start(number, ChildArguments(config, self.logging, shared), mine, folder / str(number))
            )
        return started

    def _start(self, number: int, given: ChildArguments, mine: list[Place], result: Path) -> Child:
        variables = dict(os.environ) | mine[0].environment()
        if mine[0].gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(str(place.gpu) for place in mine))
        # A group of its own: the terminal's Ctrl-C then comes once, from here.
        group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        process = subprocess.Popen(self.command(result), stdin=subprocess.PIPE, env=variables, **group)
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it died at once, and its end says how
            process.stdin.write(given.sent())
            process.stdin.flush()
        return Child(number, given.config, mine, process, result)


def end(children: Sequence[Child]) -> None:
    """End processes as Ctrl-C does, and kill what has not ended after the grace, or at a second Ctrl-C."""
    for child in children:
        child.send(signal.SIGINT)
    until = time.monotonic() + GRACE_SECONDS
    try:
        while not all(child.ended() for child in children) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
    finally:
        for child in children:
            child.send(signal.SIGKILL)
            child.process.wait()
            child.hang_up()


def launch(configs: Sequence[RunConfig], asked: int | str, gpus: Sequence[str] | None, logging: Any) -> list[Any]:
    """Run configurations side by side; `gpus` names the GPUs to use, None takes those there are."""
    from harness import runtime

    if gpus is None:
        gpus = [] if all(config.train.use_cpu for config in configs) else runtime.gpus()
    widest = max(map(width, configs))
    total = max(widest, sum(map(width, configs)))
    found = places(asked, gpus, runtime.cores(), total)
    require(not gpus or widest <= len(gpus), "processes", widest, f"there are {len(gpus)} GPUs to run on")
    while len(found) < widest:  # a run of several processes, fewer of which were to run side by side
        found.append(found[0])
    return Pool(found, logging).run(configs)
