"""Plans against memory that others measured: 18 runs of PEFT's MetaMathQA suite on Llama-3.2-3B, on one NVIDIA L40S.

``peft_suite.json`` has the numbers and says where they are from.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import nn

from harness.compose import compose
from harness.config import RunConfig
from harness.methods.base import trainable
from harness.models import size
from harness.objectives.base import Batch
from harness.objectives.next_token import NextToken
from harness.planning.plan import fake_mode, quiet
from harness.planning.skeleton import Blueprint, with_method
from harness.planning.step import Peak, Rehearsal
from harness.planning.words import StandIn
from harness.runtime import Precision, Runtime

SUITE = json.loads((Path(__file__).parent / "peft_suite.json").read_text(encoding="utf-8"))
RUNS: dict[str, dict[str, Any]] = {run["name"].replace("--llama-3.2-3B", ""): run for run in SUITE["results"]}
BATCH = SUITE["training"]["batch_size"]


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


@cache
def planned(name: str) -> tuple[Peak, int]:
    """Return the planned peak of a run and how many parameters it trains."""
    config, mode = configured(RUNS[name]), fake_mode()
    bfloat16, float32 = torch.bfloat16, torch.float32
    here = AsPeftHoldsIt(torch.device("cpu"), Precision(bfloat16, float32, float32), 1, 1, {}, None, False, {})
    blueprint = Blueprint(SUITE["model"]["config"], config.model, 0, bfloat16)
    with pytest.MonkeyPatch.context() as patch, quiet():
        patch.setattr(type(config.method), "unsuitable", lambda *_: None)  # AdaLoRA trains here but for its ranks
        skeleton = with_method(config, blueprint, here, mode)
        rehearsal = Rehearsal(config, skeleton, PlainLogits(config.task, StandIn()), here, True, mode)
        peak = rehearsal.peak(BATCH)
    return peak, sum(map(size, trainable(skeleton.model).values()))


def error(name: str) -> float:
    return planned(name)[0].moment.total / RUNS[name]["peak_bytes"] - 1


def test_the_sample_is_whole() -> None:
    assert len(RUNS) == 18


OTHER_VERSION = pytest.mark.xfail(
    strict=True,
    reason="planned 39.97 GiB, measured 35.90 (+11.3 %): the run's PEFT, 0.19.2.dev0, held OSF's factors in 16 bits; "
    "0.21.2 holds them and a copy of their start in 32, and computes their update beside the base's product",
)


PLANNED = [pytest.param(name, marks=OTHER_VERSION if name.startswith("osf") else []) for name in RUNS]


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANNED)
def test_a_runs_measured_peak_is_planned(name: str) -> None:
    assert abs(error(name)) <= 0.08, f"{error(name):+.1%}"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_trains_as_many_parameters(name: str) -> None:
    """But for one a layer of AdaLoRA's: PEFT 0.21.2 casts its constant `ranknum`, and so sets it to train."""
    constants = 2 * 28 if RUNS[name]["peft_config"] and RUNS[name]["peft_config"]["peft_type"] == "ADALORA" else 0
    assert planned(name)[1] == RUNS[name]["trainable"] + constants


@pytest.mark.slow
def test_half_of_the_measured_peaks_are_planned_within_two_hundredths() -> None:
    assert median(abs(error(name)) for name in RUNS) <= 0.02
