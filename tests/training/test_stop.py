"""A signal stops a training after a checkpoint of the step that it came in, and all else at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small_runs

from harness.execution import pipeline
from harness.execution.execute import execute
from harness.storage.record import read_record
from harness.training import stop
from harness.training.trainer import HarnessTrainer

pytestmark = pytest.mark.usefixtures("quick")
SIGNALS = [signal.SIGUSR1, signal.SIGTERM]


def overrides(data: Path, llama: Path, *more: str) -> list[str]:
    model = ["model=custom", f"model.path={llama}", "rank=4", "method.dropout=0.2"]
    return [*model, *small_runs.task("classification", data), "train.max_steps=6", "train.save_steps=0", *more]


@contextmanager
def signal_in_step(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    original = HarnessTrainer.compute_loss

    def told(self: HarnessTrainer, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step - 1:
            os.kill(os.getpid(), number)
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(HarnessTrainer, "compute_loss", told)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_told_run_finishes_its_step_and_ends_as_one_never_told(
    number: int, data_folder: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = overrides(data_folder, llama_folder)
    whole, _ = small_runs.run(tmp_path / "whole", *given)
    with (
        signal_in_step(3, number, monkeypatch),
        stop.on_signals(SIGNALS),
        pytest.raises(stop.Preempted, match=signal.Signals(number).name) as told,
    ):
        execute(small_runs.configure(tmp_path / "cut", *given))
    assert told.value.signal == number
    (folder,) = (path.parent for path in (tmp_path / "cut").glob("*/record.json"))
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["checkpoint-3"]
    assert read_record(folder)["status"] == "running"
    resumed, record = small_runs.run(tmp_path / "cut", *given)
    assert record["attempts"][-1]["from_step"] == 3
    small_runs.assert_same_run(whole, resumed)


@pytest.mark.slow
def test_told_outside_of_training_it_stops_at_once(
    data_folder: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("went on")

    monkeypatch.setattr(pipeline, "results", told)
    with stop.on_signals(SIGNALS), pytest.raises(stop.Preempted):
        execute(small_runs.configure(tmp_path, *overrides(data_folder, llama_folder)))


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(stop.Preempted), stop.on_signals(SIGNALS):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert not stop.told()
    with pytest.raises(stop.Preempted), stop.on_signals(SIGNALS), stop.after_checkpoint():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.told()  # noted, and the step goes on
