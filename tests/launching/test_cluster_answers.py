"""What is made of SLURM's answers, by small scripts in the place of its commands; tests/cluster asks a real one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_runs
import submitit  # noqa: F401 here, not within a test: it has all log handlers close, and absl's closes pytest's stderr

from harness.errors import ConfigError
from harness.launching import cluster, queued, slurm, tasks
from harness.launching.cluster import NoAnswerError

SETTINGS: dict[str, Any] = dict.fromkeys(cluster.OPTIONS) | {
    "partition": None,
    "timeout_min": 30,
    "cpus_per_task": 2,
    "nodes": 1,
    "tasks_per_node": 1,
    "mem_gb": 1.5,
}


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that puts shell scripts in the place of SLURM's commands, and nothing else on the path."""
    place = tmp_path / "commands"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/bin:/usr/bin")
    monkeypatch.setattr(cluster.shutil, "which", lambda name: (place / name) if (place / name).exists() else None)

    def put(**scripts: str) -> Path:
        for name, script in scripts.items():
            (place / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            (place / name).chmod(0o755)
        return place

    return put


FINE = {"sinfo": 'echo "cpu 2-00:00:00"; echo "gpu* 1:00:00"', "squeue": "true", "srun": "true"}


def refused(settings: dict[str, Any]) -> str:
    with pytest.raises(ConfigError, match=r"^[^\n]+$") as error:
        cluster.check(SETTINGS | settings)
    return str(error.value)


def test_times_as_slurm_prints_them() -> None:
    known = {"1:00:00": 60, "2-12:30:00": 3630, "30:00": 30, "45": 0.75, "infinite": float("inf"), "n/a": float("inf")}
    assert {text: cluster.minutes_of(text) for text in known} == known


def test_what_a_cluster_takes_is_asked_of_it(commands: Callable[..., Path]) -> None:
    place = commands(**FINE, sbatch='echo "$@" >"$(dirname "$0")/asked"')
    cluster.check(SETTINGS | {"partition": "cpu", "timeout_min": 2880, "gpus_per_node": 1})
    asked = (place / "asked").read_text(encoding="utf-8").split()
    assert {"--test-only", "--partition=cpu", "--time=2880", "--gpus-per-node=1", "--mem=1536M"} <= set(asked)
    assert not any("None" in word for word in asked)


def test_what_it_does_not_take_is_one_line(commands: Callable[..., Path]) -> None:
    assert refused({}).startswith("hydra/launcher=submitit_slurm: there is no SLURM here: no command sbatch")
    commands(**FINE, sbatch='echo "sbatch: x" >&2; echo "allocation failure: Invalid account" >&2; exit 1')
    assert (
        refused({"partition": "gqu"}) == "hydra.launcher.partition=gqu: no such partition; did you mean gpu? (cpu, gpu)"
    )
    assert refused({"timeout_min": 61}).startswith(
        "hydra.launcher.timeout_min=61: partition gpu ends jobs after 1:00:00"
    )
    assert refused({"partition": "gpu,cpu", "timeout_min": 61}).startswith(
        "hydra.launcher.timeout_min=61: partition gpu"
    )
    assert "allocation failure: Invalid account" in refused({})
    commands(sinfo='echo "slurm_load_partitions: Unable to contact slurm controller (connect failure)" >&2; exit 1')
    assert "SLURM does not answer (slurm_load_partitions: Unable to contact" in refused({})


TASKS = {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": None}


@pytest.mark.parametrize(
    ("settings", "asked", "expected"),
    [
        ({}, 1, 1),
        ({}, 2, 2),
        ({"tasks_per_node": 2}, 1, 2),
        ({"nodes": 2, "tasks_per_node": 4, "gpus_per_node": 4}, 1, 8),
    ],
)
def test_a_run_has_as_many_processes_as_slurm_starts_or_as_it_starts_itself(
    settings: dict[str, int], asked: int, expected: int
) -> None:
    assert tasks.processes(TASKS | settings, asked) == expected


@pytest.mark.parametrize(
    ("settings", "asked", "said"),
    [
        (
            {"tasks_per_node": 2},
            2,
            "processes=2: hydra.launcher.tasks_per_node=2 starts the run's 2 processes; leave it out",
        ),
        ({"nodes": 2}, 4, "processes=4: hydra.launcher.nodes=2 starts the run's 2 processes; leave it out"),
        ({"tasks_per_node": 0}, 1, "hydra.launcher.tasks_per_node=0: must be at least 1"),
        ({"tasks_per_node": 4, "gpus_per_node": 2}, 1, "hydra.launcher.gpus_per_node=2: must be at least 4: each"),
        ({"gpus_per_node": 1}, 2, "hydra.launcher.gpus_per_node=1: must be at least 2: each"),
    ],
)
def test_processes_that_slurm_and_the_run_would_both_start_are_refused_in_one_line(
    settings: dict[str, int], asked: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]+$") as error:
        tasks.processes(TASKS | settings, asked)
    assert str(error.value).startswith(said)


def test_only_jobs_that_may_still_run_are_alive(commands: Callable[..., Path]) -> None:
    lines = "12_0 RUNNING\\n12_1 PENDING\\n12_2 FAILED\\n12_3 COMPLETING\\n12_4 REQUEUED\\n13 RUNNING\\n12_5 PREEMPTED"
    commands(squeue=f"printf '{lines}\\n'")
    jobs = [f"12_{number}" for number in range(7)]
    assert cluster.alive(jobs) == {"12_0": "RUNNING", "12_1": "PENDING", "12_3": "COMPLETING", "12_4": "REQUEUED"}
    commands(squeue='echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert cluster.alive(jobs) == {}
    commands(squeue='echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1')
    with pytest.raises(NoAnswerError, match="Unable to contact"):
        cluster.alive(jobs)


def job(folder: Path, name: str, result: tuple[str, Any] | None) -> Any:
    pickle = folder / f"{name}.pkl"
    if result is not None:
        pickle.touch()
    paths = SimpleNamespace(result_pickle=pickle, stderr=folder / f"{name}.err")
    return SimpleNamespace(job_id=name, paths=paths, _get_outcome_and_result=lambda: result)


def test_waiting_ends_with_every_job_however_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A controller that is away for a moment ends nothing, and is said once."""
    answers: list[Any] = [NoAnswerError("away"), NoAnswerError("away"), {"7_3": "RUNNING"}, {}]

    def answer(_: list[str]) -> dict[str, str]:
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(slurm, "alive", answer)
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(slurm, "SILENT_SECONDS", 0.05)
    given: list[tuple[str, Any] | None] = [
        ("success", "done"),
        ("success", None),
        ("error", "Trace\nValueError: x"),
        None,
    ]
    found = slurm.wait([job(tmp_path, f"7_{number}", result) for number, result in enumerate(given)])
    assert [one.status for one in found] == ["done", None, None, None]
    assert [one.problem is None for one in found] == [True, True, False, False]
    assert "ValueError: x" in str(found[2].problem) and "without a result" in str(found[3].problem)
    assert capfd.readouterr().err.count("SLURM does not answer (away)") == 1


def test_a_job_without_a_result_fails_its_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = small_runs.configure(tmp_path, "model=bert_tiny")
    assert slurm._status(slurm.Ended("7_0", "done"), config) == "done"
    assert slurm._status(slurm.Ended("7_0", problem="it is gone"), config) == "failed"
    assert "failed: it is gone" in capfd.readouterr().err


@pytest.mark.parametrize("wait", [True, False])
def test_jobs_go_on_without_the_command(
    wait: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "submit", lambda *_: [job(tmp_path, "7_0", None), job(tmp_path, "7_1", None)])
    monkeypatch.setattr(slurm, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt if wait else SystemExit) as ended:
        slurm.launch([small_runs.configure(tmp_path, "model=bert_tiny")] * 2, {"wait": wait}, {})
    assert wait or ended.value.code == 0
    said = capfd.readouterr().err
    assert f"2 jobs in SLURM's queue, 7: python -m harness.status {tmp_path} says how they stand" in said
    assert ("scancel 7 ends them" in said) is wait


QUEUE = {"12_0": "PENDING", "12_1": "RUNNING", "12_3": "RUNNING"}


def test_runs_in_the_queue_are_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of five runs one waits, one runs, one's job is lost, one's has left a result, and one is new."""
    configs = [small_runs.configure(tmp_path / "runs", "model=bert_tiny", f"seed={seed}") for seed in range(5)]
    for number, config in enumerate(configs[:4]):
        queued.note(config, f"12_{number}", tmp_path / "jobs" / "%j")
    (tmp_path / "jobs" / "12_3").mkdir(parents=True)
    (tmp_path / "jobs" / "12_3" / "12_3_0_result.pkl").touch()
    monkeypatch.setattr(queued, "alive", lambda names: {name: QUEUE[name] for name in names if name in QUEUE})
    submitted: list[int] = []

    def array(some: Any, *_: Any) -> list[Any]:
        submitted.extend(config.seed for config in some)
        made = [job(tmp_path, f"13_{number}", None) for number in range(len(some))]
        return [SimpleNamespace(job_id=one.job_id, task=lambda _, one=one: one) for one in made]

    monkeypatch.setattr(slurm, "_array", array)
    settings = {"submitit_folder": str(tmp_path / "jobs" / "%j")}
    jobs = slurm.submit(configs, settings, {})
    assert submitted == [2, 3, 4]
    assert [one.job_id for one in jobs] == ["12_0", "12_1", "13_0", "13_1", "13_2"]
    assert "not submitted again, 2 of 5 runs are in SLURM's queue: 12_0, 12_1" in capfd.readouterr().err
    assert jobs[1].paths.result_pickle == tmp_path / "jobs" / "12_1" / "12_1_0_result.pkl"
    monkeypatch.setattr(queued, "alive", lambda names: dict.fromkeys(names, "PENDING"))
    slurm.submit(configs, settings, {})
    assert submitted == [2, 3, 4]  # all are in the queue by now


def test_a_queue_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_runs.configure(tmp_path / "runs", "model=bert_tiny")
    queued.note(config, "12", tmp_path / "jobs" / "%j")

    def away(_: Any) -> Any:
        raise NoAnswerError("away")

    monkeypatch.setattr(queued, "alive", away)
    with pytest.raises(
        ConfigError, match=r"^hydra/launcher=submitit_slurm: SLURM does not answer \(away\); try squeue$"
    ):
        slurm.submit([config], {"submitit_folder": str(tmp_path)}, {})


@pytest.mark.parametrize(
    ("cpus", "processes", "tasks", "threads"), [(4, 1, 1, 4), (4, 2, 1, 2), (1, 2, 1, 1), (4, 2, 2, 4)]
)
def test_processes_of_one_task_share_its_cores(
    cpus: int, processes: int, tasks: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", str(cpus))
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    slurm._set_threads(processes, tasks)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == (str(threads), "7")
