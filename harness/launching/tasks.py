"""A run as one of several tasks of a SLURM job: the place where ``tasks_per_node`` meets the run's processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.config import RunConfig, require
from harness.storage.record import Status


def require_one_task(settings: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` where a run is asked to have several tasks."""
    for name in ("nodes", "tasks_per_node"):
        require(settings[name] == 1, f"hydra.launcher.{name}", settings[name], "a run has one process so far; use 1")


def in_task(config: RunConfig, work: Callable[[RunConfig], Status | None]) -> Status | None:
    """Do one task's part of a run, and return how it ended.

    With several tasks each one joins the run's group here, by the variables of torchrun as
    ``submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)`` sets them; the first
    writes the one record.
    """
    return work(config)
