"""What a run took: seconds and peak memory of each of its sections, none counted in another."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from harness.runtime import Runtime, paged_bytes

State = dict[str, dict[str, Any]]


class Meter:
    """Seconds and peak memory by section; a section inside of another is not counted in the outer one.

    So ``train`` is optimiser steps alone, however often a run writes checkpoints or is evaluated on the way.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, dict[str, float]] = {}
        self._open: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Measure what runs inside as section `name`; entered twice, its seconds add up and its peak is the higher."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def elapsed(self, name: str) -> float:
        """Return the seconds of a section so far."""
        running = time.perf_counter() - self._since if self._open[-1:] == [name] else 0.0
        return self.seconds.get(name, 0.0) + running

    def state(self) -> State:
        """Return everything measured so far."""
        self._charge()
        return {"seconds": dict(self.seconds), "memory": {name: dict(peak) for name, peak in self.memory.items()}}

    def since(self, before: State) -> State:
        """Return what was measured after `before` was taken, section by section."""
        now, earlier = self.state(), before["seconds"]
        seconds = {name: value - earlier.get(name, 0.0) for name, value in now["seconds"].items()}
        changed = {name: value for name, value in seconds.items() if value > 0}
        return {"seconds": changed, "memory": {name: now["memory"][name] for name in changed}}

    def add(self, measured: State) -> None:
        """Count what an earlier attempt measured, whose work this one goes on from."""
        for name, value in measured["seconds"].items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
            self._keep_peak(name, measured["memory"].get(name, {}))

    def _charge(self) -> None:
        """Count the seconds since the last change of section, and the peak, to the innermost section."""
        self.runtime.synchronise()
        if self._open:
            name, now = self._open[-1], time.perf_counter()
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
            self._keep_peak(name, peak(self.runtime))
        reset_peak(self.runtime)
        self._since = time.perf_counter()

    def _keep_peak(self, name: str, found: dict[str, float]) -> None:
        before = self.memory.get(name, {})
        self.memory[name] = {key: max(found.get(key, 0.0), before.get(key, 0.0)) for key in {**before, **found}}


def reset_peak(runtime: Runtime) -> None:
    """Forget earlier peaks; on Linux writing 5 to clear_refs resets the resident peak of this process."""
    if runtime.cuda:
        torch.cuda.reset_peak_memory_stats(runtime.device)
    with suppress(OSError):  # not Linux, or not allowed: the peak is then the process's so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(runtime: Runtime) -> dict[str, float]:
    """Return peak memory in GiB: resident, and on the GPU as allocated, as reserved, and paged beside both."""
    found = {"resident_gib": _resident_peak()}
    if runtime.cuda:
        found["cuda_allocated_gib"] = torch.cuda.max_memory_allocated(runtime.device) / 2**30
        found["cuda_reserved_gib"] = torch.cuda.max_memory_reserved(runtime.device) / 2**30
        found["cuda_paged_gib"] = paged_bytes() / 2**30
    return found


def _resident_peak() -> float:
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:", 1)[1].split()[0]) / 2**20
    except (OSError, IndexError):
        return _resident_peak_elsewhere()


def _resident_peak_elsewhere() -> float:
    """Return the process's peak so far by getrusage, which macOS has in bytes; 0 where there is none."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 2**30 if platform.system() == "Darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
