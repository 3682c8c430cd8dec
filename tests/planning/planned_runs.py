"""What tests of the planner share: the real training of a configuration, its live bytes counted as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from harness import runtime
from harness.config import RunConfig
from harness.execution.loading import attach
from harness.meter import Meter
from harness.models import Pretrained, load_backbone
from harness.objectives import build
from harness.planning.live import WEIGHTS, LiveMemory
from harness.planning.plan import blueprint_of
from harness.planning.quantised import state_tensors
from harness.storage import assets
from harness.storage.record import RunFolder
from harness.training.train import train
from harness.training.trainer import Job
from harness.training.watch import Hooks


def real_training(config: RunConfig, folder: Path) -> tuple[nn.Module, Callable[[], None]]:
    """Return a real model with its method, and what trains it: the Trainer itself, over items of the full length."""
    here = runtime.resolve(config)
    config = replace(config, method=config.method.on(here))
    files = assets.fetch_model(config.model, assets.cache_root(None))
    objective: Any = build(config.task, blueprint_of(config).kind, None)  # type: ignore[arg-type]
    wanted = Pretrained(files, config.model, objective.outputs, config.seed)
    backbone = load_backbone(wanted, here.device, config.method.quantization())
    objective.tokenizer = backbone.tokenizer
    if not objective.packed:
        pad_one_token(objective)
    model = attach(config, backbone, here)
    items = [objective.longest()] * (3 * config.train.per_device_train_batch_size)
    job = Job(config, model, backbone.head, objective, items, RunFolder(folder, "real"), Meter(here), here)
    return model, lambda: _train(job)


def pad_one_token(objective: Any) -> None:
    """Have each batch look as one of items of unequal length does: transformers then makes a mask."""
    original = objective.collate

    def collate(features: Any) -> Any:
        batch = original(features)
        batch["attention_mask"][0, -1] = 0
        return batch

    objective.collate = collate


def _train(job: Job) -> None:
    train(job, Hooks(log=lambda *_: None, evaluate=lambda _: {}, every=()), "test")


def real_peak(config: RunConfig, folder: Path) -> LiveMemory:
    """Return the live bytes of a real training of three steps, every tensor of it counted."""
    model, work = real_training(config, folder)
    live = LiveMemory()
    with live:
        live.hold([*model.parameters(), *model.buffers(), *state_tensors(model)], WEIGHTS)
        work()
    return live
