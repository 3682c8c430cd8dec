"""What a run ran on, and what it took: versions, hardware, seconds by phase, peak memory."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from harness import __version__

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "lm_eval",
    "tokenizers",
    "numpy",
    "scipy",
    "wandb",
)


def versions() -> dict[str, str | None]:
    """Return the version of Python, this project and every package that can change a number."""
    return {"python": platform.python_version(), "peft-harness": __version__} | {
        name: _version(name) for name in PACKAGES
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe(device: torch.device) -> dict[str, Any]:
    """Return processor, threads and GPU; no host name, user or environment variable."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "gpu": gpu.name if gpu else None,
        "gpu_memory_gib": round(gpu.total_memory / 2**30, 1) if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


class Meter:
    """Seconds and peak memory by phase; a phase entered twice adds up its seconds."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, dict[str, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside, as phase `name`."""
        _reset_peak(self.device)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._synchronise()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
            self._keep_peak(name)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _keep_peak(self, name: str) -> None:
        before = self.memory.get(name, {})
        self.memory[name] = {key: max(value, before.get(key, 0.0)) for key, value in _peak(self.device).items()}


def _reset_peak(device: torch.device) -> None:
    """Forget earlier peaks; on Linux writing 5 to clear_refs resets the resident peak of this process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # not Linux, or not allowed: the peak is then the process's so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> dict[str, float]:
    """Return peak memory in GiB: resident, and on the GPU as allocated and as reserved."""
    peak = {"resident_gib": _resident_peak()}
    if device.type == "cuda":
        peak["cuda_allocated_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        peak["cuda_reserved_gib"] = torch.cuda.max_memory_reserved(device) / 2**30
    return peak


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
