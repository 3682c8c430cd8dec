"""Costs: optimiser steps alone, and everything else under its own name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from small_runs import run

from harness import meter as metering
from harness import runtime
from harness.meter import Meter
from harness.training import trainer as training

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def here(tmp_path: Path) -> runtime.Runtime:
    return runtime.resolve(small_runs.configure(tmp_path, "train.use_cpu=true"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time that the meter sees, to be set by the test."""
    now = [0.0]
    monkeypatch.setattr(metering.time, "perf_counter", lambda: now[0])
    return now


def test_a_section_inside_another_is_not_counted_in_it(here: runtime.Runtime, clock: list[float]) -> None:
    meter = Meter(here)
    with meter.section("train"):
        clock[0] += 3
        with meter.section("checkpoint"):
            clock[0] += 5
            assert meter.elapsed("train") == 3
        clock[0] += 4
        assert meter.elapsed("train") == 7
    clock[0] += 100
    with meter.section("checkpoint"):
        clock[0] += 1
    assert meter.seconds == {"train": 7, "checkpoint": 6}


def test_a_section_that_raises_is_closed(here: runtime.Runtime, clock: list[float]) -> None:
    meter = Meter(here)
    with meter.section("outer"):
        with pytest.raises(ZeroDivisionError), meter.section("inner"):
            clock[0] += 2
            _ = 1 / 0
        clock[0] += 1
    assert meter.seconds == {"outer": 1, "inner": 2}


def test_what_an_earlier_attempt_took_is_added(here: runtime.Runtime, clock: list[float]) -> None:
    first = Meter(here)
    with first.section("load"):
        clock[0] += 1
    before = first.state()
    with first.section("train"):
        clock[0] += 10
        saved = first.since(before)
    assert saved["seconds"] == {"train": 10}
    second = Meter(here)
    second.add(saved)
    with second.section("train"):
        clock[0] += 5
    assert second.seconds == {"train": 15}
    assert second.memory["train"]["resident_gib"] >= saved["memory"]["train"]["resident_gib"]


def test_each_section_has_its_own_peak(here: runtime.Runtime) -> None:
    meter = Meter(here)
    with meter.section("small"):
        with meter.section("large"):
            torch.ones(100 * 2**20 // 4).sum()
        torch.ones(2**10).sum()
    assert meter.memory["large"]["resident_gib"] > meter.memory["small"]["resident_gib"] + 0.09


@pytest.mark.slow
def test_training_is_steps_alone_whatever_checkpoints_and_evaluations_take(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full fine-tuning writes most: counted as training, its checkpoints would make it look dearer than it is."""
    original = training.save_state

    def slow(*arguments: Any) -> None:
        held = torch.ones(200 * 2**20 // 4)
        time.sleep(0.3)
        original(*arguments)
        assert held.sum() > 0

    monkeypatch.setattr(training, "save_state", slow)
    bert = ["model=bert_tiny", *small_runs.task("classification", data_folder), "method=full"]
    along = ["train.save_steps=1", "train.eval_steps=1"]
    _, plain = run(tmp_path / "plain", *bert, "train.save_steps=0")
    _, saved = run(tmp_path / "saved", *bert, *along)
    assert saved["seconds"]["checkpoint"] > 4 * 0.3
    assert saved["seconds"]["train"] < 0.3 + 3 * plain["seconds"]["train"]
    assert saved["memory"]["checkpoint"]["resident_gib"] > saved["memory"]["train"]["resident_gib"] + 0.15
    assert saved["seconds"]["evaluate_during_training"] > 0
    assert saved["tokens_per_second"] == pytest.approx(saved["tokens"] / saved["seconds"]["train"], rel=0.01)
    assert {"checkpoint", "evaluate_during_training"} & set(plain["seconds"]) == set()


@pytest.mark.slow
def test_probes_on_the_way_are_not_training(
    data_folder: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.forgetting.measure import Probing

    original = Probing.measure

    def slow(self: Probing, model: Any) -> Any:
        time.sleep(0.3)
        return original(self, model)

    monkeypatch.setattr(Probing, "measure", slow)
    llama = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    _, record = run(tmp_path, *llama, "forgetting.every=1", "train.max_steps=3")
    assert record["seconds"]["forgetting_during_training"] > 3 * 0.3
    assert record["seconds"]["train"] < 0.6
