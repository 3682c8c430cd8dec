"""Plan a run of PEFT's MetaMathQA suite as it was run: its tuner, batch, precision and loss.

As a command, plan one run of ``peft_suite.json`` with whatever PEFT is importable: ``python peft_runs.py <run>``.
"""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import peft
import torch
from torch import nn

from harness.compose import compose
from harness.config import RunConfig
from harness.methods.base import trainable
from harness.models import size
from harness.objectives.base import Batch
from harness.objectives.next_token import NextToken
from harness.planning.cards import card
from harness.planning.plan import fake_mode, quiet
from harness.planning.skeleton import Blueprint, with_method
from harness.planning.step import Rehearsal
from harness.planning.words import StandIn
from harness.runtime import Precision, Runtime

SUITE = json.loads((Path(__file__).parent / "peft_suite.json").read_text(encoding="utf-8"))
RUNS: dict[str, dict[str, Any]] = {run["name"].replace("--llama-3.2-3B", ""): run for run in SUITE["results"]}
CARD = card("l40s")


class AsPeftHoldsIt(Runtime):
    """The suite's precision: the base in bfloat16, adapters in what PEFT makes of them, products without autocast."""

    def hold_trained(self, model: nn.Module) -> nn.Module:
        return model


class PlainLogits(NextToken):
    """The suite's loss: transformers' own, over the logits of every position, and padding in its batches."""

    packed = False

    def training_loss(self, model: nn.Module, batch: Batch, fused: bool) -> torch.Tensor:
        loss: torch.Tensor = model(**batch, num_items_in_batch=batch["labels"].numel()).loss
        return loss


def configured(run: dict[str, Any]) -> RunConfig:
    training, tuner = SUITE["training"], run["peft_config"]
    config = compose(
        "model=llama3_2_3b",
        "model.dtype=bfloat16",
        "task=openwebtext",
        f"task.max_length={training['max_seq_length']}",
        f"train.per_device_train_batch_size={training['batch_size']}",
        f"train.max_grad_norm={training['grad_norm_clip']}",
        *(["method=full"] if tuner is None else ["method=peft", f"method.peft_type={tuner['peft_type']}"]),
    )
    if tuner is None:
        return config
    options = {name: value for name, value in tuner.items() if name not in ("peft_type", "task_type")}
    return replace(config, method=replace(config.method, options=options))


class Planned(NamedTuple):
    """What is planned of a run, to be held against what was measured."""

    total: int
    """Bytes at the peak, over items as long as the task allows."""
    reserved: int
    trainable: int
    step_seconds: float
    """On the suite's card, over items of the mean length."""
    peft: str


def planned(run: dict[str, Any]) -> Planned:
    """Return a run's plan by the PEFT that is importable."""
    config, mode = configured(run), fake_mode()
    bfloat16, float32 = torch.bfloat16, torch.float32
    here = AsPeftHoldsIt(torch.device("cpu"), Precision(bfloat16, float32, float32), 1, 1, {}, None, False, {})
    blueprint = Blueprint(SUITE["model"]["config"], config.model, 0, bfloat16)
    wrap = functools.partial(peft.get_peft_model, autocast_adapter_dtype=run.get("autocast_adapter_dtype", True))
    # AdaLoRA trains here but for its ranks
    with patch.object(type(config.method), "unsuitable", lambda *_: None), patch("peft.get_peft_model", wrap), quiet():
        skeleton = with_method(config, blueprint, here, mode)
        rehearsal = Rehearsal(config, skeleton, PlainLogits(config.task, StandIn()), here, True, mode)
        peak = rehearsal.peak(SUITE["training"]["batch_size"])
        mean = SUITE["training"]["mean_length"]
        work = rehearsal.peak(SUITE["training"]["batch_size"], {"input_ids": [0] * mean, "length": mean}).work
    count = sum(map(size, trainable(skeleton.model).values()))
    return Planned(peak.moment.total, peak.reserved, count, work.seconds(CARD) or 0.0, peft.__version__)


if __name__ == "__main__":
    print(json.dumps(planned(RUNS[sys.argv[1]])))
