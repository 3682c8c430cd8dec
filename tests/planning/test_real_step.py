"""Plans against the real step: the Trainer trains a real model, whose live bytes are counted one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_runs
from planned_runs import real_peak, real_training

import harness.methods
from harness.methods.base import METHODS
from harness.planning.live import LiveMemory
from harness.planning.plan import Planner
from harness.planning.work import Work

METHODS.discover(harness.methods)
OVERRIDES = ["train.max_steps=3", "train.save_steps=0", "train.per_device_train_batch_size=4", "rank=4"]
DECODER = [name for name in METHODS.names() if name not in ("bitfit", "head_only")]
"""Those that apply to a Llama, which has no biases and no output layer of its own."""


def compare(tmp_path: Path, *overrides: str) -> tuple[int, int]:
    """Return the planned and the real peak in bytes, on the processor."""
    config = small_runs.configure(tmp_path, *OVERRIDES, *overrides)
    planned = Planner(config, cuda=False).plan()
    return planned.peak_bytes, real_peak(config, tmp_path).peak.total


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("method", DECODER)
def test_a_decoders_peak_is_planned_within_a_hundredth(
    method: str, llama_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    model = ["model=custom", f"model.path={llama_folder}", *small_runs.task("instruction", data_folder)]
    planned, real = compare(tmp_path, *model, f"method={method}", "task.max_length=96")
    assert planned == pytest.approx(real, rel=0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("method", METHODS.names())
def test_an_encoders_peak_is_planned_within_a_hundredth(method: str, data_folder: Path, tmp_path: Path) -> None:
    model = ["model=bert_tiny", *small_runs.task("classification", data_folder)]
    planned, real = compare(tmp_path, *model, f"method={method}", "task.max_length=64")
    assert planned == pytest.approx(real, rel=0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("method", ["full", "lora", "prompt", "adapter"])
def test_a_step_computes_and_moves_what_the_real_one_does(method: str, data_folder: Path, tmp_path: Path) -> None:
    """All products, to the operation; of kernels and traffic what is not the Trainer's looks at the loss is few."""
    model = ["model=bert_tiny", *small_runs.task("classification", data_folder)]
    config = small_runs.configure(tmp_path, *OVERRIDES, *model, f"method={method}", "task.max_length=64")
    steps = config.train.max_steps
    planned = Planner(config, cuda=False).rehearsal.peak(config.train.per_device_train_batch_size).work
    _, train = real_training(config, tmp_path)
    live = LiveMemory()
    live.work = real = Work()
    with live:
        train()
    assert planned.flops * steps == real.flops
    assert len(planned.kernels) * steps == pytest.approx(len(real.kernels), rel=0.2)
    moved, really = (sum(bytes_ for _, bytes_ in work.kernels) for work in (planned, real))
    assert moved * steps == pytest.approx(really, rel=0.1)
