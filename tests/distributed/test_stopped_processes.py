"""A signal that a run of several processes gets, as SLURM sends it: a checkpoint of the step, and no failure."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs
from together import assert_same_numbers

from harness.config import RunConfig
from harness.distributed import group, watch
from harness.distributed.launch import in_processes
from harness.execution.execute import execute
from harness.storage.record import Status, read_record
from harness.training.stop import Preempted, on_signals

ROOT = Path(__file__).resolve().parents[2]
TOLD = 85
"""The exit code of a command whose run was told to stop."""
COMMAND = f"""
import pickle, signal, sys
from harness.execution.execute import execute
from harness.training.stop import Preempted, on_signals

if __name__ == "__main__":
    config = pickle.load(open(sys.argv[1], "rb"))
    try:
        with on_signals([signal.SIGUSR1, signal.SIGTERM]):
            print(execute(config))
    except Preempted as told:
        print(told)
        sys.exit({TOLD})
"""


@pytest.fixture
def config(llama_folder: Path, data_folder: Path, tmp_path: Path, quick: None) -> RunConfig:
    model = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder), "rank=4"]
    more = ["train.use_cpu=true", "train.max_steps=200", "train.save_steps=0", "processes=2"]
    return small_runs.configure(tmp_path / "two", *model, *more)


def started(config: RunConfig, folder: Path) -> subprocess.Popen[str]:
    """Start a run in a group of processes of its own."""
    (folder / "config.pkl").write_bytes(pickle.dumps(config))
    (folder / "command.py").write_text(COMMAND, encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(folder / "command.py"), str(folder / "config.pkl")]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, process_group=0, **output)


def until(what: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while not what():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


def steps(config: RunConfig) -> int:
    path = small_runs.folder_of(config) / "history.jsonl"
    return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0


SENT: dict[str, Callable[[int, int], Any]] = {"the parent": os.kill, "all processes": os.killpg}
"""A user tells one process; SLURM tells all of a job at once."""


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(("number", "to"), [(signal.SIGUSR1, "the parent"), (signal.SIGTERM, "all processes")])
def test_a_signal_writes_a_checkpoint_and_the_run_goes_on_there(
    number: signal.Signals, to: str, config: RunConfig, tmp_path: Path
) -> None:
    process = started(config, tmp_path)
    until(lambda: steps(config) > 20, process)
    SENT[to](process.pid, number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == TOLD and number.name in said, said
    folder = small_runs.folder_of(config)
    (checkpoint,) = folder.glob("checkpoints/checkpoint-*")
    assert read_record(folder)["status"] == "running"
    process = started(config, tmp_path)
    assert "done" in process.communicate(timeout=400)[0] and process.returncode == 0
    record = read_record(folder)
    assert record["status"] == "done" and record["interruptions"] == 1 and record["mixed"] == []
    assert record["attempts"][-1]["from_step"] == int(checkpoint.name.rpartition("-")[2]) >= 20
    alone = replace(config, processes=1, output_dir=str(tmp_path / "one"))
    execute(alone)
    assert_same_numbers(small_runs.folder_of(alone), folder)


def one_waits_for_the_other(config: RunConfig) -> Status | None:
    """Do what the processes of an evaluation do: the first is done with its part, the second computes."""
    if group.rank() == 1:
        (Path(config.output_dir) / "ready").touch()
        time.sleep(120)
    group.wait()
    return None


@pytest.mark.slow
@pytest.mark.cluster
def test_a_signal_outside_of_training_stops_a_process_that_waits_for_another(config: RunConfig) -> None:
    folder = Path(config.output_dir)
    folder.mkdir()
    before = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])

    sent: list[float] = []

    def tell() -> None:
        while not (folder / "ready").exists():
            time.sleep(0.05)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=tell, daemon=True).start()
    with pytest.raises(Preempted) as told, on_signals([signal.SIGUSR1, signal.SIGTERM]):
        in_processes(config, one_waits_for_the_other)
    assert told.value.signal == signal.SIGUSR1 and time.monotonic() - sent[0] < watch.ORDER_SECONDS / 2
    assert (signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])) == before


class Store(dict[str, bytes]):
    """What the watch needs of torch's store."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


def test_a_process_that_has_ended_is_not_lost_while_the_first_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process uploads what the others have no part in, for minutes at times."""
    monkeypatch.setattr(group, "gathered", lambda mine: [mine, ("elsewhere", 1)])
    store = Store()
    first = watch.Watch(store)
    first.size, first.peers[1].seen = 2, time.monotonic() - 2 * watch.SILENT_SECONDS
    assert first.lost() == (1, "rank 1 of 2 has not been heard of for 30 seconds")
    store.set("harness/end/1", "ended: ")
    assert first.lost() is None and first.stopped() is None
    store.set("harness/end/1", "stopped: SIGUSR1")
    assert first.lost() is None and first.stopped() == signal.SIGUSR1
