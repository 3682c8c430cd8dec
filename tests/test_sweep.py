"""Sweeps: no run twice, none left out, one that fails stops no other, and the end says how each stands."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import small_runs
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from harness import runtime, sweep
from harness.compose import conf_folder, register, to_run_config
from harness.errors import ConfigError, HarnessError, RecordError
from harness.execution import execute as execution
from harness.execution import pipeline
from harness.execution.execute import execute
from harness.storage.record import RunFolder, Status, read_record

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def base(data_folder: Path, tmp_path: Path) -> list[str]:
    """Return the overrides that all jobs of a sweep here share."""
    quick = [override for override in small_runs.QUICK if "max_steps" not in override]
    tiny = ["model=bert_tiny", "train.max_steps=2", f"output_dir={tmp_path / 'runs'}"]
    return [*quick, *tiny, *small_runs.task("classification", data_folder)]


def compose(job: Sequence[str]) -> DictConfig:
    return _composed(tuple(job))


@cache
def _composed(job: tuple[str, ...]) -> DictConfig:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return hydra_compose("config", overrides=list(job))


def launch(jobs: list[list[str]]) -> list[JobReturn]:
    """Run jobs as Hydra's basic launcher does: one after another, an error kept for later."""
    results = []
    for job in jobs:
        result = JobReturn()
        try:
            status = execute(to_run_config(compose(job)))
            result.return_value = None if status is None else status.value
            result.status = JobStatus.COMPLETED
        except Exception as error:
            result.return_value = error
            result.status = JobStatus.FAILED
        results.append(result)
    return results


def jobs_of(base: list[str], *choices: list[str]) -> list[list[str]]:
    return [[*base, *choice] for choice in choices]


def run_sweep(jobs: list[list[str]]) -> int:
    """Run a sweep and return its exit code."""
    try:
        sweep.run_sweep(jobs, compose, launch)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def statuses(base: list[str]) -> dict[str, str]:
    """Return each run's status by its label."""
    folder = Path(next(o for o in base if o.startswith("output_dir=")).partition("=")[2])
    return {
        path.name.rsplit("-", 1)[0]: read_record(path)["status"]
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    }


@pytest.mark.slow
def test_methods_without_a_rank_are_trained_once(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    jobs = jobs_of(base, *[[f"method={m}", f"rank={r}"] for m in ("full", "lora", "bitfit") for r in (2, 4)])
    planned = sweep.plan(jobs, compose)
    assert [run.config.method.name for run in planned] == ["full", "lora", "lora", "bitfit"]
    assert run_sweep(jobs) == 0
    assert statuses(base) == {"full": "done", "bitfit": "done", "lora-r2": "done", "lora-r4": "done"}
    _, *rows, remark = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in rows] == [["full", "-"], ["lora", "2"], ["lora", "4"], ["bitfit", "-"]]
    assert all("accuracy" in line for line in rows)
    assert remark.startswith("one learning rate for each row: this ranks pairs of method and rate")


def test_dry_run_says_all_and_trains_nothing(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run_sweep(jobs_of(base, ["method=lora", "rank=2"]))
    capsys.readouterr()
    choices = [["method=lora", "rank=2"], ["method=full", "rank=2"], ["method=full", "rank=4"]]
    assert run_sweep(jobs_of([*base, "dry_run=true"], *choices)) == 0
    text = capsys.readouterr().out
    assert "2 runs, 1 duplicates left out: 1 to train, 1 not" in text
    assert [line.split()[0] for line in text.splitlines()[1:3]] == ["done", "to"]
    assert statuses(base) == {"lora-r2": "done"}


def test_one_run_with_two_numbers_of_processes_needs_two_folders(base: list[str], tmp_path: Path) -> None:
    jobs = jobs_of(base, ["processes=1"], ["processes=2"])
    with pytest.raises(ConfigError, match=r"^processes=2: the same run is to have 1, which is not in its id; add "):
        sweep.plan(jobs, compose)
    apart = [[*job, f"output_dir={tmp_path}/${{processes}}"] for job in jobs]
    assert [(run.config.processes, run.folder.parent.name) for run in sweep.plan(apart, compose)] == [
        (1, "1"),
        (2, "2"),
    ]


@pytest.mark.slow
def test_failed_run_stops_no_other_and_is_retried(
    base: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(base, ["method=full"], ["method=lora"], ["method=bitfit"])
    original = pipeline.learn

    def fails_for_lora(run: Any, *arguments: Any) -> Any:
        if run.config.method.name == "lora":
            raise ValueError("out of luck")
        return original(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "learn", fails_for_lora)
        assert run_sweep(jobs) == 1
    assert statuses(base) == {"full": "done", "lora-r16": "failed", "bitfit": "done"}
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("lora"))
    assert "failed" in row and row.rstrip().endswith("ValueError: out of luck")
    trained: list[str] = []
    monkeypatch.setattr(
        pipeline, "learn", lambda run, *rest: trained.append(run.config.method.name) or original(run, *rest)
    )
    assert run_sweep(jobs) == 0
    assert trained == ["lora"]
    assert set(statuses(base).values()) == {"done"}


def test_job_that_raises_does_not_keep_the_others_from_their_end(
    base: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing should get out of `execute`; should something do, it is not swallowed."""
    original = execution._next_attempt

    def broken(config: Any, folder: RunFolder) -> Any:
        if config.method.name == "full":
            raise ZeroDivisionError("a bug")
        return original(config, folder)

    monkeypatch.setattr(execution, "_next_attempt", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_sweep(jobs_of(base, ["method=full"], ["method=bitfit"]))
    assert read_record(folder_named(base, "bitfit"))["status"] == "done"


def folder_named(base: list[str], label: str) -> Path:
    folder = Path(next(o for o in base if o.startswith("output_dir=")).partition("=")[2])
    return next(
        path for path in folder.iterdir() if path.name.startswith(f"{label}-") and (path / "record.json").exists()
    )


@pytest.mark.slow
def test_not_applicable_is_no_failure(base: list[str], llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llama = [o for o in base if not o.startswith("model=")] + ["model=custom", f"model.path={llama_folder}"]
    assert run_sweep(jobs_of(llama, ["method=bitfit"], ["method=lora"])) == 0
    assert statuses(base) == {"bitfit": "not_applicable", "lora-r16": "done"}
    assert "n/a" in capsys.readouterr().out
    assert not any(run.pending for run in sweep.plan(jobs_of(llama, ["method=bitfit"]), compose))


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{", json.dumps({"schema_version": 9, "id": "", "status": "done", "config": {}})])
def test_damaged_record_is_reported_and_the_rest_is_trained(
    content: str, base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = jobs_of(base, ["method=full"], ["method=bitfit"])
    damaged = sweep.plan(jobs, compose)[0].folder / "record.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text(content, encoding="utf-8")
    assert run_sweep(jobs) == 1
    assert damaged.read_text(encoding="utf-8") == content
    assert str(damaged) in capsys.readouterr().out
    assert read_record(folder_named(base, "bitfit"))["status"] == "done"
    config = to_run_config(compose(jobs[0]))
    with pytest.raises(RecordError, match=r"damaged|newer"):
        sweep.run_single(config, execute)


@pytest.mark.slow
def test_cut_run_shows_as_such_and_is_resumed(base: list[str]) -> None:
    """And what the sweep had not begun is trained; that a killed run ends as a whole one is tested where it resumes."""
    jobs = jobs_of(base, ["method=bitfit"], ["method=lora"])
    planned = sweep.plan(jobs, compose)[0]
    folder = RunFolder(planned.config.output_dir, planned.id)
    here = runtime.resolve(planned.config)
    folder.write(execution._new_record(planned.config, folder, here, {"restarts": 0}))
    again = sweep.plan(jobs, compose)
    assert [(run.status, run.pending) for run in again] == [("running", True), ("new", True)]
    assert "cut: resume" in sweep.describe(again, 2)
    assert run_sweep(jobs) == 0
    assert set(statuses(base).values()) == {"done"}
    assert len(read_record(folder.path)["attempts"]) == 2


@pytest.mark.slow
def test_run_that_another_process_holds_comes_last(base: list[str]) -> None:
    """The sweep trains the others first, then waits for that one and finds it done."""
    jobs = jobs_of(base, ["method=bitfit"], ["method=full"])
    held = sweep.plan(jobs, compose)[0]
    batches: list[list[list[str]]] = []

    def watched(batch: list[list[str]]) -> list[JobReturn]:
        batches.append(batch)
        if len(batches) > 1:
            return launch(batch)
        with RunFolder(held.config.output_dir, held.id).lock(wait=False) as mine:
            assert mine
            return launch(batch)

    sweep.run_sweep(jobs, compose, watched)
    assert [len(batch) for batch in batches] == [2, 1]
    assert "sweep.wait=true" in batches[1][0] and "method=bitfit" in batches[1][0]
    assert set(statuses(base).values()) == {"done"}


@pytest.mark.slow
def test_places_and_names_reach_the_runs(base: list[str]) -> None:
    run_sweep(jobs_of(base, ["method=full"]))
    seen: list[Any] = []

    def remember(batch: list[list[str]]) -> list[JobReturn]:
        seen.extend(to_run_config(compose(job)).sweep for job in batch)
        return launch(batch)

    jobs = jobs_of(base, ["method=full"], ["method=bitfit"], ["method=head_only"])
    sweep.run_sweep(jobs, compose, remember)
    assert [(place.index, place.total, place.prepared) for place in seen] == [(2, 3, True), (3, 3, True)]
    assert len({place.name for place in seen}) == 1 and seen[0].name.startswith("sweep-")
    named = jobs_of([*base, "sweep.name='first look'"], ["method=bitfit", "seed=1"])
    sweep.run_sweep(named, compose, remember)
    assert seen[-1].name == "first look"


@pytest.mark.slow
def test_everything_is_checked_before_the_first_run_trains(
    base: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(execution, "work", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").touch()
    for wrong in (
        ["method=peft", "+method.options.nonsense=1"],
        [f"output_dir={tmp_path / 'file'}"],
        ["+train.other.eval_strategy=sometimes"],
        ["tracker=wandb", "tracker.project=a/b"],
        ["model=custom", f"model.path={tmp_path}"],
        ["task.data.all.path=missing.jsonl"],
        ["task.columns={text: nothing, label: label}"],
    ):
        with pytest.raises((HarnessError, ConfigError)) as error:
            sweep.run_sweep(jobs_of(base, ["method=full"], wrong), compose, launch)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_single_run_waits_for_its_turn_and_is_reported(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = to_run_config(compose([*base, "method=bitfit"]))
    waits: list[bool] = []

    def watched(made: Any) -> Status | None:
        waits.append(made.sweep.wait)
        return execute(made)

    sweep.run_single(config, watched)
    sweep.run_single(config, watched)
    assert waits == [True]  # and the second time it is done
    assert capsys.readouterr().out.count("bitfit") >= 2


@pytest.mark.slow
def test_two_sweeps_on_one_folder_train_no_run_twice(
    base: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One in a process of its own, and once that has begun one here."""
    # A multirun takes no key twice.
    several = [override for override in base if not override.startswith(("train.max_steps=", "train.save_steps="))]
    several.append("train.max_steps=30")
    other = small_runs.start_process("-m", *several, "method=bitfit,lora", "rank=2,4")
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "runs").glob("*/record.json")) and time.monotonic() < deadline:
            assert other.poll() is None, other.communicate()
            time.sleep(0.02)
        choices = [[f"method={method}", f"rank={rank}"] for method in ("bitfit", "lora") for rank in (2, 4)]
        assert run_sweep(jobs_of([*several, "train.save_steps=2"], *choices)) == 0
        texts = [other.communicate(timeout=240)[0], capfd.readouterr().out]
    finally:
        other.kill()
    assert other.returncode == 0, texts
    records = [read_record(path) for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    assert len(records) == 3
    assert {record["status"] for record in records} == {"done"}
    assert {len(record["attempts"]) for record in records} == {1}
    for path in (tmp_path / "runs").glob("*/history.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]
        assert steps == list(range(1, 31))
    for text in texts:
        rows = [line for line in text.splitlines() if line.startswith(("bitfit ", "lora "))]
        assert len(rows) == 3 and all("accuracy" in row for row in rows)  # both tables show all three
