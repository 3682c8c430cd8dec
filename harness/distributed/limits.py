"""What several processes cannot do, refused in one line before anything is trained."""

from __future__ import annotations

from harness.config import Distributed, RunConfig, require
from harness.errors import ConfigError
from harness.runtime import Runtime
from harness.training.arguments import optimizer
from harness.training.order import Share

ELEMENTWISE = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
"""Optimisers that treat each number by itself, so that a part of a tensor is enough for them."""
INSTEAD = "; distributed=replicate works"


def check_processes(config: RunConfig, here: Runtime) -> None:
    """Refuse what several processes cannot do, with what works instead; one process has no such limits."""
    if config.processes == 1:
        require(not config.offload, "offload", True, "needs processes=2 or more, with distributed=shard")
        return
    Share.of(config.train, 0, config.processes)
    if config.distributed is Distributed.shard:
        _check_shard(config, here)


def _check_shard(config: RunConfig, here: Runtime) -> None:
    reason = config.method.needs_whole_base()
    if reason is not None:
        raise ConfigError("distributed", "shard", f"cannot be used with method={config.method.name}: {reason}{INSTEAD}")
    require(not config.sequence, "distributed", "shard", f"cannot train a sequence of tasks{INSTEAD}")
    require(here.cuda or not config.offload, "offload", True, "moves memory off a GPU, and there is none here")
    train, name = config.train, optimizer(config)
    allowed = f"needs whole tensors; with distributed=shard one of {', '.join(ELEMENTWISE)}"
    require(name in ELEMENTWISE, "train.optim", name, allowed)
    require(not here.scales_gradients, "train.fp16", True, "is not scaled over parts; use train.bf16=true")
    require(not train.fused_loss, "train.fused_loss", True, "reads the whole output matrix; write false")
    require(not train.torch_compile, "train.torch_compile", True, f"was not tried with distributed=shard{INSTEAD}")
