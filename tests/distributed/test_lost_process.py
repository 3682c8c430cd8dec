"""A process of a run that dies or stands still ends the run within a minute, and the same command goes on with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import small_runs
from together import assert_same_numbers

from harness.storage.record import read_record

ROOT = Path(__file__).resolve().parents[2]
STEPS = ["train.max_steps=60", "train.save_steps=5"]
MINUTE = 60.0


@pytest.fixture
def asked(llama_folder: Path, data_folder: Path) -> list[str]:
    model = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    return [
        *small_runs.QUICK[:2],
        "train.per_device_train_batch_size=4",
        *model,
        "rank=4",
        "train.use_cpu=true",
        *STEPS,
    ]


def started(launcher: list[str], asked: list[str], folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *launcher, *asked, f"output_dir={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def second_rank(process: subprocess.Popen[str], module: str) -> psutil.Process:
    """Return the second of the processes that do the work, which are started in the order of their ranks."""
    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if module in _line(child)]
    return sorted(workers, key=lambda child: child.pid)[1]


def _line(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not list(folder.glob("*/checkpoints/checkpoint-*/resume/progress.json")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)


def end(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Return how long a command still takes, and what it said."""
    begun = time.monotonic()
    _, said = process.communicate(timeout=3 * MINUTE)
    return time.monotonic() - begun, said


LAUNCHERS: dict[str, tuple[list[str], list[str], str]] = {
    "processes": (["harness.run"], ["processes=2"], "spawn_main"),
    "torchrun": (["torch.distributed.run", "--nproc-per-node=2", "-m", "harness.run"], [], "-u -m harness.run"),
}
HARM: dict[str, Callable[[psutil.Process], Any]] = {
    "killed": lambda process: process.kill(),
    "stopped": lambda process: process.send_signal(signal.SIGSTOP),
}


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("launcher", "harm"), [("processes", "killed"), ("torchrun", "killed"), ("processes", "stopped")]
)
def test_a_lost_process_ends_the_run_with_a_record_that_names_it_and_the_command_goes_on(
    asked: list[str], tmp_path: Path, launcher: str, harm: str, quick: None
) -> None:
    modules, more, worker = LAUNCHERS[launcher]
    process = started(modules, [*asked, *more], tmp_path / "two")
    wait_for_checkpoint(tmp_path / "two", process)
    HARM[harm](second_rank(process, worker))
    seconds, said = end(process)
    assert process.returncode != 0 and seconds < MINUTE
    (folder,) = (tmp_path / "two").glob("lora-*")
    record = read_record(folder)
    assert record["status"] == "failed" and record["reason"].startswith("rank 1 of 2 "), (record["reason"], said)
    again = started(modules, [*asked, *more], tmp_path / "two")
    _, said = end(again)
    assert again.returncode == 0, said
    record = read_record(folder)
    assert record["status"] == "done" and record["interruptions"] == 1 and record["mixed"] == []
    one, _ = small_runs.run(tmp_path / "one", *asked)
    assert_same_numbers(one, folder)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_run_goes_on_with_another_number_of_processes_and_says_so(
    asked: list[str], tmp_path: Path, quick: None
) -> None:
    process = started(["harness.run"], [*asked, "processes=2"], tmp_path / "two")
    wait_for_checkpoint(tmp_path / "two", process)
    process.send_signal(signal.SIGINT)
    end(process)
    (folder,) = (tmp_path / "two").glob("lora-*")
    assert read_record(folder)["status"] != "done"
    _, record = small_runs.run(tmp_path / "two", *asked)
    assert record["status"] == "done" and record["interruptions"] == 1 and "processes 2 → 1" in record["mixed"]
    one, _ = small_runs.run(tmp_path / "one", *asked)
    assert_same_numbers(one, folder)


@pytest.mark.slow
@pytest.mark.cluster
def test_processes_that_were_asked_for_different_runs_are_refused_in_one_line(asked: list[str], tmp_path: Path) -> None:
    asked = [*asked, f"output_dir={tmp_path}"]
    text = (
        f"import os, sys; from harness.run import cli; sys.argv[1:] = {asked!r} + ['seed=' + os.environ['RANK']]; cli()"
    )
    script = tmp_path / "mismatched.py"
    script.write_text(text, encoding="utf-8")
    process = started(["torch.distributed.run", "--nproc-per-node=2", str(script)], [], tmp_path)
    _, said = end(process)
    (line,) = [line for line in said.splitlines() if line.startswith("harness: ")]
    assert process.returncode != 0 and "rank 1 was given another run or setting than" in line
    assert list(tmp_path.glob("lora-*")) == []


def test_torchrun_of_a_sweep_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from command_line import call

    from harness.run import cli

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "0")
    done = call(cli, "-m", "rank=4,8")
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "harness: torchrun: starts the processes of one run; a sweep starts those of its runs by processes=2",
    )
