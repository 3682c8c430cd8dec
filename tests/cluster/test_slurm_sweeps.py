"""Sweeps over a real SLURM with real daemons: queued, preempted, killed, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import small_runs
from command_line import call
from together import assert_same_numbers

from harness import status
from harness.launching.cluster import ENDED
from harness.storage.record import read_record

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
Start = Callable[..., subprocess.Popen[str]]
SECONDS = 900


def records(runs: Path) -> dict[str, dict[str, Any]]:
    """Return the records by the names of their runs without the hash."""
    folders = [path.parent for path in runs.glob("*/record.json")]
    return {folder.name.rsplit("-", 1)[0]: read_record(folder) for folder in folders}


def all_records(runs: Path) -> list[dict[str, Any]]:
    return [read_record(path.parent) for path in runs.glob("*/record.json")]


def until(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Wait until something is true while a sweep goes on, and return it."""
    deadline = time.monotonic() + SECONDS
    while not (found := what()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.3)
    return found


def ended(process: subprocess.Popen[str], code: int) -> str:
    printed = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == code, printed
    return str(printed)


def queue(form: str) -> list[str]:
    command = ["squeue", "--noheader", "--array", "--states=all", f"--format={form}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def checkpoints(runs: Path) -> list[Path]:
    return sorted(runs.glob("*/checkpoints/checkpoint-*"))


def state(job: str) -> str:
    return dict(line.split("=") for line in queue("%i=%T")).get(job, "")


def running_job(process: subprocess.Popen[str], runs: Path, steps: int) -> str:
    """Return the name of the one job of a sweep, once its run has done so many steps."""
    until(lambda: [h for h in runs.glob("*/history.jsonl") if h.read_text().count("\n") > steps], process)
    (job,) = [line.split("=")[0] for line in queue("%i=%T") if line.endswith("=RUNNING")]
    return job


def test_six_runs_as_an_array_in_a_queue_that_is_full(sweep: Start, tmp_path: Path) -> None:
    """Two CPUs and six jobs: four wait at first, all end, and the table has them."""
    process = sweep("method=lora,full,head_only", "seed=0,1")
    states = until(lambda: [s for s in queue("%T") if s == "PENDING"] and queue("%T"), process)
    assert states.count("RUNNING") <= 2
    assert "waiting" in call(status.cli, tmp_path / "runs").stdout
    printed = ended(process, 0)
    rows = [line for line in printed.splitlines() if line.startswith(("lora ", "full ", "head_only "))]
    assert len(rows) == 6 and all("accuracy" in row for row in rows), printed
    assert "6 jobs in SLURM's queue" in printed
    found = call(status.cli, tmp_path / "runs").stdout
    assert "6 runs: 6 done" in found
    ran = records(tmp_path / "runs").values()
    assert {record["runtime"]["environment"]["OMP_NUM_THREADS"] for record in ran} == {"1"}
    again = sweep("method=lora,full,head_only", "seed=0,1")
    assert "SLURM's queue" not in ended(again, 0)  # nothing left to submit


LONG = ("method=lora", "method.dropout=0.2", "train.max_steps=700", "train.save_steps=0")
"""A run of a minute or more that writes no checkpoint unless it is told to stop."""


@pytest.mark.parametrize("name", ["USR1", "TERM"])
def test_preempted_run_checkpoints_is_queued_again_and_goes_on_there(name: str, sweep: Start, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = sweep(*LONG)
    job = running_job(process, runs, 20)
    subprocess.run(["scancel", f"--signal={name}", job], check=True)
    until(lambda: checkpoints(runs), process)
    until(lambda: "1 cut" in call(status.cli, runs).stdout, process)
    ended(process, 0)
    (record,) = records(runs).values()
    assert record["status"] == "done" and record["interruptions"] == 1
    first, second = record["attempts"]
    assert first["from_step"] == 0 and second["from_step"] >= 20
    (folder,) = (path.parent for path in runs.glob("*/record.json"))
    assert [line["step"] for line in small_runs.history(folder)] == list(range(1, 701))  # no step twice, none left out


SHORT = ("train.max_steps=12", "train.save_steps=4", "train.per_device_train_batch_size=4")
EQUAL = ("method=lora", "train.max_steps=250", "train.save_steps=0", "train.per_device_train_batch_size=4")


def only(folder: Path) -> Path:
    """Return the folder of the one run."""
    (record,) = folder.glob("*/record.json")
    return record.parent


def test_six_runs_of_one_and_of_two_processes_in_one_array(sweep: Start, tmp_path: Path) -> None:
    """Three methods, each in one process and in two; a run starts its own within its job."""
    folder = tmp_path / "runs"
    place = f"output_dir={folder}/${{processes}}"
    process = sweep("method=lora,full,head_only", "processes=1,2", place, *SHORT)
    assert "6 jobs in SLURM's queue" in ended(process, 0)
    one, two = ({path.parent.name: path.parent for path in (folder / n).glob("*/record.json")} for n in "12")
    assert one.keys() == two.keys() and len(one) == 3
    for name in one:
        assert_same_numbers(one[name], two[name])
        found = read_record(two[name])
        assert (found["runtime"]["processes"], len(found["memory_by_process"])) == (2, 2)


def test_two_tasks_of_slurm_are_one_run(sweep: Start, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    given = ("method=lora", *SHORT)
    ended(sweep(*given, f"output_dir={one}"), 0)
    printed = ended(sweep(*given, f"output_dir={two}", "hydra.launcher.tasks_per_node=2"), 0)
    assert "1 jobs in SLURM's queue" in printed and "accuracy" in printed
    assert_same_numbers(only(one), only(two))
    record = read_record(only(two))
    assert (record["runtime"]["processes"], len(record["memory_by_process"])) == (2, 2)
    assert record["config"]["processes"] == 2 and len(record["attempts"]) == 1
    assert len(list(two.rglob("*_submitted.pkl"))) == 1 and len(list(two.rglob("*_result.pkl"))) == 2


SEVERAL = [
    ("USR1", "processes=2"),
    ("TERM", "processes=2"),
    ("USR1", "hydra.launcher.tasks_per_node=2"),
    ("TERM", "hydra.launcher.tasks_per_node=2"),
]


@pytest.mark.parametrize(("name", "several"), SEVERAL)
def test_preempted_run_of_two_processes_goes_on_and_ends_as_one_that_was_not(
    name: str, several: str, sweep: Start, tmp_path: Path
) -> None:
    runs, alone = tmp_path / "runs", tmp_path / "alone"
    process = sweep(*EQUAL, several)
    job = running_job(process, runs, 20)
    subprocess.run(["scancel", f"--signal={name}", job], check=True)
    until(lambda: checkpoints(runs), process)
    ended(process, 0)
    record = read_record(only(runs))
    assert record["status"] == "done" and record["interruptions"] == 1 and record["mixed"] == []
    first, second = record["attempts"]
    assert first["from_step"] == 0 and second["from_step"] >= 20
    ended(sweep(*EQUAL, f"output_dir={alone}"), 0)
    assert_same_numbers(only(alone), only(runs))


def test_lost_task_ends_the_run_with_a_record_that_names_it(sweep: Start, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = sweep(*EQUAL, "hydra.launcher.tasks_per_node=2")
    running_job(process, runs, 5)
    tasks = [found for found in psutil.process_iter() if _is_task(found, runs)]
    holder = status.holder_of(only(runs) / ".lock")
    (second,) = [found.pid for found in tasks if holder and found.pid != holder.pid]
    os.kill(second, signal.SIGKILL)
    printed = ended(process, 1)
    record = read_record(only(runs))
    assert record["status"] == "failed" and record["reason"].startswith("rank 1 of 2 "), printed


def _is_task(found: psutil.Process, runs: Path) -> bool:
    """Return whether a process is a task of a run in this folder."""
    try:
        line = found.cmdline()
    except psutil.Error:
        return False
    return "submitit.core._submit" in line and str(runs) in " ".join(line) and "srun" not in line[0]


def test_runs_in_the_queue_are_not_submitted_again(sweep: Start, tmp_path: Path) -> None:
    """The same command twice, and a third that asks for one run more."""
    given = ("method=lora", "train.max_steps=300", "seed=0,1,2")
    printed = ended(sweep(*given, "hydra.launcher.wait=false"), 0)
    assert "3 jobs in SLURM's queue" in printed
    printed = ended(sweep(*given, "hydra.launcher.wait=false"), 0)
    assert "not submitted again, 3 of 3 runs are in SLURM's queue" in printed
    assert len(queue("%i")) - len([s for s in queue("%T") if s in ENDED]) <= 3
    printed = ended(sweep("method=lora", "train.max_steps=300", "seed=0,1,2,3"), 0)
    assert "not submitted again, " in printed
    rows = [line for line in printed.splitlines() if line.startswith("lora ")]
    assert len(rows) == 4 and all("accuracy" in row for row in rows), printed
    assert [len(record["attempts"]) for record in all_records(tmp_path / "runs")] == [1] * 4


def test_cancelled_run_does_not_come_back(sweep: Start, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = sweep(*LONG)
    job = running_job(process, runs, 5)
    subprocess.run(["scancel", job], check=True)
    assert f"SLURM's job {job} ended" in ended(process, 1)
    (record,) = records(runs).values()
    assert record["status"] == "failed" and len(record["attempts"]) == 1
    assert checkpoints(runs)  # written between SLURM's SIGTERM and its SIGKILL
    assert state(job) == "CANCELLED"


def test_killed_process_fails_its_run_alone_and_the_same_command_goes_on(sweep: Start, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    given = ("method=lora,head_only", "train.max_steps=300", "train.save_steps=5")
    process = sweep(*given)
    until(lambda: [path for path in checkpoints(runs) if "lora" in str(path)], process)
    (holder,) = [status.holder_of(path / ".lock") for path in runs.glob("lora*")]
    assert holder is not None
    os.kill(holder.pid, signal.SIGKILL)
    printed = ended(process, 1)
    assert "ended without a result: killed" in printed
    found = records(runs)
    assert found["head_only"]["status"] == "done"
    (lora,) = [record for name, record in found.items() if name.startswith("lora")]
    assert lora["status"] == "failed" and "killed" in lora["reason"] and str(Path.home()) + "/" not in lora["reason"]
    ended(sweep(*given), 0)
    (lora,) = [record for name, record in records(runs).items() if name.startswith("lora")]
    assert lora["status"] == "done" and lora["attempts"][-1]["from_step"] >= 5


def test_submitted_without_waiting_the_status_has_the_table_later(sweep: Start, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    printed = ended(sweep("method=head_only", "hydra.launcher.wait=false"), 0)
    assert "1 jobs in SLURM's queue" in printed and "accuracy" not in printed
    call(status.cli, runs, "watch=1")
    deadline = time.monotonic() + SECONDS
    while "1 done" not in call(status.cli, runs).stdout and time.monotonic() < deadline:
        time.sleep(0.5)
    assert "accuracy" in call(status.cli, runs, "results=true").stdout


REFUSED = {
    "hydra.launcher.partition=smal": "hydra.launcher.partition=smal: no such partition; did you mean small? (small)",
    "hydra.launcher.timeout_min=61": "hydra.launcher.timeout_min=61: partition small ends jobs after 1:00:00",
    "hydra.launcher.gpus_per_node=1": "hydra/launcher=submitit_slurm: SLURM refuses such a job (gpus-per-node=1",
    "hydra.launcher.tasks_per_node=3": "hydra/launcher=submitit_slurm: SLURM refuses such a job (",
    "hydra.launcher.tasks_per_node=2 processes=2": "processes=2: hydra.launcher.tasks_per_node=2 starts the run's 2",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_the_cluster_has_not_is_refused_in_one_line(override: str, sweep: Start, tmp_path: Path) -> None:
    printed = ended(sweep("method=head_only", *override.split()), 1)
    assert printed.count("\n") == 1 and printed.startswith(f"harness: {REFUSED[override]}"), printed
    assert not (tmp_path / "runs").exists()


def test_controller_that_is_down_is_said_in_one_line(sweep: Start, tmp_path: Path) -> None:
    """Last: the daemons are started again for whoever comes after."""
    script = Path(__file__).resolve().parent.parent.parent / ".ci" / "slurm"
    place = Path(os.environ["HARNESS_SLURM"])
    os.kill(int((place / "slurmctld.pid").read_text(encoding="ascii")), signal.SIGKILL)
    try:
        printed = ended(sweep("method=head_only"), 1)
    finally:
        subprocess.run([script, "start"], check=True, capture_output=True, timeout=120)
    assert printed.count("\n") == 1, printed
    assert printed.startswith("harness: hydra/launcher=submitit_slurm: SLURM does not answer (")
    assert "try sinfo" in printed
    assert not (tmp_path / "runs").exists()
