"""How a process joins the group that a launcher started it in, and that all of them were asked for the same run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta

import torch.distributed as dist

from harness import identity, progress, runtime
from harness.config import RunConfig, require
from harness.distributed import group
from harness.distributed.watch import watching
from harness.errors import ConfigError
from harness.training.stop import Preempted

GIVEN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""Variables that torchrun gives a process; accelerate would take each for a wish to share the work its own way."""
PATIENCE = timedelta(days=1)
"""How long a process waits for another: :mod:`harness.distributed.watch` knows of one that died or stands still."""


@contextmanager
def joined(use_cpu: bool) -> Iterator[None]:
    """Be one of the processes that torchrun started, each with a GPU of its own where there are any."""
    ended = False
    count, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    backend = runtime.own_device(local, int(os.environ["LOCAL_WORLD_SIZE"]), use_cpu)
    if count > 1:
        dist.init_process_group(backend, timeout=PATIENCE)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    given = {name: os.environ.pop(name) for name in GIVEN if name in os.environ}
    progress.mute(not group.first())
    try:
        with watching(address, port) if count > 1 else nullcontext():
            yield
            ended = True
    except Preempted:
        ended = True  # one that still waits for this process notices that the connection is closed
        raise
    finally:
        os.environ.update(given)
        if dist.is_initialized() and ended:  # it would wait for processes that are gone
            dist.destroy_process_group()


def agreed(config: RunConfig) -> RunConfig:
    """Return the configuration with the number of processes that there are.

    Raises :class:`ConfigError` where the processes were given different ones, or another number than there are.
    """
    count = group.size()
    allowed = f"{count} were started; leave it out"
    require(config.processes in (1, count), "processes", config.processes, allowed)
    ids = group.gathered((identity.run_id(config), identity.digest(identity.resolved(config))))
    other = next((number for number, found in enumerate(ids) if found != ids[0]), None)
    if other is not None:
        raise ConfigError("torchrun", ids[other][0], f"rank {other} was given another run or setting than {ids[0][0]}")
    return replace(config, processes=count)
