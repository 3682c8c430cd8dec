"""Runs of two processes: many of them in one pair of processes, for a new pair spends ten seconds on imports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import small_runs
import torch

from harness.config import RunConfig
from harness.distributed.launch import start
from harness.distributed.membership import joined
from harness.execution.execute import execute
from harness.storage.record import read_record

TOLERANCE = 1e-5


def in_two(configs: Sequence[RunConfig]) -> list[Path]:
    """Execute runs one after the other in two processes, and return their folders."""
    start(2, execute_all, [replace(config, processes=2) for config in configs])
    return [small_runs.folder_of(config) for config in configs]


def execute_all(configs: Sequence[RunConfig]) -> None:
    """Do one process's part of all runs."""
    torch.set_num_threads(1)
    with joined(use_cpu=True):
        for config in configs:
            execute(config)


def assert_same_numbers(one: Path, two: Path, shifts: bool = False) -> None:
    """Require that a run of two processes has the losses of one to 1e-5, its answers, and its trained state.

    With `shifts` a head scores each choice by one number: its bias moves all of them alike, so that its gradient is
    rounding, which Adam makes whole steps of, in either direction.
    """
    first, second = read_record(one), read_record(two)
    assert (first["status"], second["status"]) == ("done", "done"), second.get("traceback")
    assert first["id"] == second["id"]
    assert first["parameters"] == second["parameters"]
    for before, after in zip(small_runs.history(one), small_runs.history(two), strict=True):
        assert (before["step"], before["tokens"]) == (after["step"], after["tokens"])
        assert abs(before["loss"] - after["loss"]) < TOLERANCE, (before, after)
        assert abs(before["grad_norm"] - after["grad_norm"]) < TOLERANCE * max(1.0, before["grad_norm"])
    assert_same_answers(answers(one), answers(two))
    tensors, others = small_runs.tensors(one / "trained"), small_runs.tensors(two / "trained")
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        if shifts and tensor.numel() == 1:
            continue
        assert_same_state(tensor, others[name], reach=2 * first["steps"] * first["config"]["train"]["learning_rate"])


def assert_same_state(one: torch.Tensor, two: torch.Tensor, reach: float) -> None:
    """Require numbers to 1e-4, but of one in 500: of a gradient that is rounding Adam makes steps up to `reach`."""
    apart = (two - one).abs()
    assert float((apart > 1e-4 * (1 + one.abs())).float().mean()) <= 0.002, float(apart.max())
    assert float(apart.max()) <= reach


def assert_same_answers(one: dict[str, list[tuple[str, str]]], two: dict[str, list[tuple[str, str]]]) -> None:
    """Require the same items and answers; numbers, which a regression answers with, as close as losses are."""
    assert one.keys() == two.keys()
    for name, found in one.items():
        for (item, answer), (other, another) in zip(found, two[name], strict=True):
            assert item == other
            assert answer == another or float(answer) == pytest.approx(float(another), abs=1e-4), (name, item)


def answers(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Return each item's answer by phase and split."""
    found = small_runs.items(folder)
    return {
        f"{phase} {split}": [(outcome["item"], outcome["prediction"]) for outcome in outcomes]
        for phase, splits in found.items()
        for split, outcomes in splits.items()
    }
