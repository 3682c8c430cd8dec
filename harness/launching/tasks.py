"""A run as the tasks of a SLURM job: SLURM starts its processes, on one node or on several."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.config import RunConfig, require
from harness.storage.record import Status

TASKS = ("nodes", "tasks_per_node")


def processes(settings: Mapping[str, Any], asked: int) -> int:
    """Return the number of a run's processes: the job's tasks, or in a job of one task as many as the run starts.

    Raises :class:`ConfigError` where both are asked for, or there are fewer GPUs than processes on a node.
    """
    for name in TASKS:
        require(settings[name] >= 1, f"hydra.launcher.{name}", settings[name], "must be at least 1")
    total = settings["nodes"] * settings["tasks_per_node"]
    said = " ".join(f"hydra.launcher.{name}={settings[name]}" for name in TASKS if settings[name] > 1)
    require(total == 1 or asked == 1, "processes", asked, f"{said} starts the run's {total} processes; leave it out")
    gpus, beside = settings["gpus_per_node"], settings["tasks_per_node"] if total > 1 else asked
    allowed = f"must be at least {beside}: each process of a run has a GPU of its own"
    require(gpus is None or gpus >= beside, "hydra.launcher.gpus_per_node", gpus, allowed)
    return total if total > 1 else asked


def in_task(config: RunConfig, work: Callable[[RunConfig], Status | None], signals: Sequence[int]) -> Status | None:
    """Do one task's part of a run, which these signals stop in order, and return how it ended.

    Of several tasks each joins the run's group as a process of torchrun does.
    """
    from submitit.helpers import TorchDistributedEnvironment

    from harness import runtime
    from harness.distributed.membership import agreed, joined
    from harness.training.stop import on_signals

    task = TorchDistributedEnvironment()
    if task.world_size == 1:
        with on_signals(signals):
            return work(config)
    for name in runtime.WORLD_SIZES:  # of SLURM's MPI, by which accelerate would share the work its own way
        os.environ.pop(name, None)
    task.export(set_cuda_visible_devices=False, overwrite=True)
    with joined(config.train.use_cpu):
        config = agreed(config)
        with on_signals(signals):
            return work(config)
