"""A run goes on at the phase that was cut or failed: what was trained is never trained again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_runs
from small_runs import assert_same_run, run

from harness import runtime
from harness.execution import attempts, pipeline
from harness.execution.attempts import continues, mixed, resume_point
from harness.execution.execute import execute
from harness.execution.phases import Phases, names
from harness.forgetting.measure import Probing
from harness.meter import Meter
from harness.storage.record import RunFolder, Status, read_record
from harness.sweep import run_single
from harness.training.trainer import HarnessTrainer

pytestmark = pytest.mark.usefixtures("quick")

PLACES: dict[str, tuple[Any, str]] = {
    "baseline": (pipeline, "fill_baseline"),
    "train": (pipeline, "learn"),
    "evaluate": (pipeline, "answers"),
    "probe": (Probing, "measure"),
    "save": (pipeline, "results"),
}
"""A function of each phase, to be broken."""
AFTER_TRAINING = ("evaluate", "probe", "save")


@pytest.fixture(scope="module")
def overrides(data_folder: Path, llama_folder: Path) -> list[str]:
    return [*unprobed(data_folder, llama_folder), *small_runs.small_probes(data_folder)]


@pytest.fixture(scope="module")
def plain(data_folder: Path, llama_folder: Path) -> list[str]:
    """Return the overrides of the same run without probes, which takes half the time."""
    return unprobed(data_folder, llama_folder)


def unprobed(data: Path, llama: Path) -> list[str]:
    model = ["model=custom", f"model.path={llama}", *small_runs.task("classification", data)]
    return [*model, "rank=4", "method.dropout=0.1"]


@pytest.fixture(scope="module")
def whole(overrides: list[str], tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Return the folder of a run that nothing stopped."""
    return run(tmp_path_factory.mktemp("whole"), *overrides)[0]


def only_run(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if not path.name.startswith("."))
    return found


def breaks(error: BaseException) -> Callable[..., Any]:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    return broken


STOPS = [(phase, error) for phase in PLACES for error in (KeyboardInterrupt(), RuntimeError("CUDA out of memory"))]
STOPS += [(phase, OSError(28, "no space")) for phase in ("train", "save")]  # another failure in but its reason


@pytest.mark.parametrize(("phase", "error"), STOPS)
def test_a_run_that_stops_in_a_phase_ends_as_an_uninterrupted_one(
    phase: str,
    error: BaseException,
    overrides: list[str],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small_runs.configure(tmp_path / "cut", *overrides)
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[phase], breaks(error))
        if isinstance(error, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                execute(config)
        else:
            assert execute(config) is Status.failed
            assert read_record(only_run(tmp_path / "cut"))["phase"] == phase
    if phase in AFTER_TRAINING:
        monkeypatch.setattr(HarnessTrainer, "compute_loss", breaks(AssertionError("trained again")))
    assert execute(config) is Status.done
    cut = only_run(tmp_path / "cut")
    assert_same_run(whole, cut)
    assert [attempt["from_phase"] for attempt in read_record(cut)["attempts"]] == ["baseline", phase]
    assert not (cut / "phases").exists() and not (cut / "checkpoints").exists()


@pytest.mark.slow
def test_seconds_of_done_phases_are_counted(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_runs.configure(tmp_path, *overrides)
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES["save"], breaks(RuntimeError("late")))
        execute(config)
    folder = only_run(tmp_path)
    kept = {phase: json.loads((folder / "phases" / phase / "meter.json").read_text()) for phase in ("train", "probe")}
    execute(config)
    seconds = read_record(folder)["seconds"]
    assert seconds["train"] == pytest.approx(kept["train"]["seconds"]["train"], abs=1e-3)
    assert seconds["forgetting"] == pytest.approx(kept["probe"]["seconds"]["forgetting"], abs=1e-3)


def test_a_training_that_diverged_starts_over(
    plain: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_runs.configure(tmp_path, *plain)
    original = HarnessTrainer.compute_loss

    def diverges(self: HarnessTrainer, *arguments: Any, **options: Any) -> Any:
        loss = original(self, *arguments, **options)
        if self.state.global_step == 3:
            from harness.errors import TrainingError

            raise TrainingError("the loss is nan at step 4")
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(HarnessTrainer, "compute_loss", diverges)
        assert execute(config) is Status.failed
    folder = only_run(tmp_path)
    assert (folder / "checkpoints" / "checkpoint-2").exists()
    assert execute(config) is Status.done
    record = read_record(folder)
    assert record["restarts"] == 1
    assert [attempt["from_step"] for attempt in record["attempts"]] == [0, 0]


@pytest.mark.slow
def test_a_failure_in_training_that_is_not_the_trainings_resume_point_its_checkpoint(
    overrides: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, steps = HarnessTrainer.compute_loss, []

    def fails(self: HarnessTrainer, *arguments: Any, **options: Any) -> Any:
        steps.append(self.state.global_step)
        if len(steps) == 4:
            raise RuntimeError("a probe on the way timed out")
        return original(self, *arguments, **options)

    monkeypatch.setattr(HarnessTrainer, "compute_loss", fails)
    config = small_runs.configure(tmp_path / "cut", *overrides)
    assert execute(config) is Status.failed
    assert execute(config) is Status.done
    assert steps == [0, 1, 2, 3, 2, 3]
    assert_same_run(whole, only_run(tmp_path / "cut"))


@pytest.mark.slow
@pytest.mark.parametrize(("retry", "again"), [("failed", True), ("none", False), ("all", True)])
def test_retry_says_whether_a_failed_run_is_tried_again(
    retry: str, again: bool, plain: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES["evaluate"], breaks(RuntimeError("late")))
        run(tmp_path, *plain)
    _, record = run(tmp_path, *plain, f"retry={retry}")
    assert record["status"] == ("done" if again else "failed")
    assert record["restarts"] == (1 if retry == "all" else 0)


@pytest.mark.slow
def test_retry_all_trains_a_done_run_from_the_start(plain: list[str], tmp_path: Path) -> None:
    first, before = run(tmp_path, *plain)
    shutil.copytree(first, tmp_path / "copy" / first.name)
    second, record = run(tmp_path, *plain, "retry=all")
    assert (before["restarts"], record["restarts"], len(record["attempts"])) == (0, 1, 2)
    assert_same_run(tmp_path / "copy" / first.name, second)


def test_not_applicable_is_tried_again_on_request(llama_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    model = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    _, first = run(tmp_path, *model, "method=bitfit")
    assert first["status"] == "not_applicable"
    _, again = run(tmp_path, *model, "method=bitfit", "retry=all")
    assert (again["status"], len(again["attempts"])) == ("not_applicable", 2)


def cut_after_training(overrides: list[str], folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*PLACES["evaluate"], breaks(RuntimeError("late")))
        run(folder, *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["torch", "device"])
def test_going_on_under_other_conditions_is_refused_or_marked(
    what: str, plain: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cut_after_training(plain, tmp_path)
    folder = only_run(tmp_path)
    before = (folder / "record.json").read_bytes()
    capfd.readouterr()
    original = attempts.described

    def elsewhere(config: Any, here: Any) -> Any:
        found = original(config, here)
        if what == "torch":
            return found | {"versions": found["versions"] | {"torch": "9.9"}}
        return found | {"runtime": found["runtime"] | {"device": "cuda", "gpu": "H100"}}

    monkeypatch.setattr("harness.execution.execute.described", elsewhere)
    config = small_runs.configure(tmp_path, *plain)
    assert execute(config) is Status.failed
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "was begun under other conditions" in line and "resume=force" in line and "retry=all" in line
    assert (folder / "record.json").read_bytes() == before
    _, record = run(tmp_path, *plain, "resume=force")
    assert record["status"] == "done"
    assert any(entry.startswith(f"{what} ") for entry in record["mixed"])
    _, record = run(tmp_path, *plain, "retry=all")
    assert record["mixed"] == []


@pytest.mark.slow
def test_nothing_trained_yet_may_go_on_anywhere(
    plain: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES["baseline"], breaks(RuntimeError("early")))
        run(tmp_path, *plain)
    original = attempts.described
    monkeypatch.setattr(
        "harness.execution.execute.described",
        lambda config, here: original(config, here) | {"versions": {"torch": "9.9"}},
    )
    _, record = run(tmp_path, *plain)
    assert (record["status"], record["mixed"]) == ("done", [])


def test_a_phase_after_the_first_training_builds_on_it() -> None:
    starts = ["baseline", "train", "1-trec-train"]
    builds = ["evaluate", "probe", "save", "1-trec-evaluate", "1-trec-hand-over", "2-boolq-train"]
    assert [continues({"from_phase": phase, "from_step": 0}) for phase in starts] == [False] * 3
    assert all(continues({"from_phase": phase, "from_step": 0}) for phase in builds)
    assert continues({"from_phase": "train", "from_step": 1})


@pytest.mark.slow
def test_retry_all_starts_each_run_over_once_a_command(plain: list[str], tmp_path: Path) -> None:
    """A job that the queue gives again, and a second process of the sweep, find it begun since."""
    run(tmp_path, *plain)
    command = [*plain, "retry=all", f"sweep.begun={time.time() + 0.001}"]
    time.sleep(0.01)
    restarts = [run(tmp_path, *command)[1]["restarts"] for _ in range(2)]
    assert restarts == [1, 1]


@pytest.mark.slow
def test_a_start_over_that_was_cut_is_begun_again(
    plain: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is removed is not of a done run any more once the first of it is gone."""
    folder, _ = run(tmp_path, *plain)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "start_over", breaks(KeyboardInterrupt()))
        run(tmp_path, *plain, "retry=all")
    assert read_record(folder)["status"] == "running"
    _, record = run(tmp_path, *plain)
    assert (record["status"], record["attempts"][-1]["from_phase"]) == ("done", "baseline")


@pytest.mark.slow
def test_no_model_is_loaded_where_only_saving_is_left(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES["save"], breaks(RuntimeError("disk full")))
        run(tmp_path, *overrides)
    monkeypatch.setattr("harness.execution.loading.load_backbone", breaks(AssertionError("loaded")))
    _, record = run(tmp_path, *overrides)
    assert record["status"] == "done", record["reason"]


def test_what_was_mixed_is_forgotten_by_a_start_over() -> None:
    def attempt(torch: str, phase: str, step: int = 0) -> dict[str, Any]:
        shared = {
            "device": "cpu",
            "gpu": None,
            "method": {},
            "threads": 1,
            "processes": 1,
            "kernels": "AVX2",
            "environment": {},
        }
        base = {"versions": {"torch": torch}, "runtime": shared, "machine": {"processor": "x"}, "commit": "a" * 40}
        return base | {"dirty": False, "from_phase": phase, "from_step": step}

    begun, forced = attempt("2.12", "baseline"), attempt("2.13", "train", 20)
    assert mixed([begun, forced]) == ["torch 2.12 → 2.13"]
    assert mixed([begun, forced, attempt("2.13", "baseline")]) == []
    assert mixed([begun, attempt("2.13", "train", 0)]) == []


def test_done_phases_are_not_worked_on_again(tmp_path: Path) -> None:
    here = runtime.resolve(small_runs.configure(tmp_path))
    calls: list[str] = []

    def work(folder: Path) -> None:
        calls.append("worked")
        (folder / "result.json").write_text("1", encoding="utf-8")

    for _ in range(2):
        assert (Phases(tmp_path / "phases", Meter(here)).once("train", work) / "result.json").read_text() == "1"
    assert calls == ["worked"]
    with pytest.raises(ZeroDivisionError):
        Phases(tmp_path / "phases", Meter(here)).once("evaluate", lambda _: print(1 / 0))
    assert not (tmp_path / "phases" / "evaluate").exists()


def test_the_phases_of_a_sequence(tmp_path: Path) -> None:
    config = small_runs.configure(tmp_path)
    assert names(config) == ["baseline", "train", "evaluate", "probe", "save"]
    config.sequence = ["trec", "boolq"]
    assert names(config) == [
        "baseline",
        *["1-trec-train", "1-trec-evaluate", "1-trec-hand-over"],
        *["2-boolq-train", "2-boolq-evaluate"],
        *["probe", "save"],
    ]
    folder = RunFolder(tmp_path, "run")
    assert resume_point(config, folder) == {"from_phase": "baseline", "from_step": 0}
    for done in names(config)[:4]:
        (folder.path / "phases" / done).mkdir(parents=True)
    (folder.path / "stages/2-boolq/checkpoints/checkpoint-7/resume").mkdir(parents=True)
    (folder.path / "stages/2-boolq/checkpoints/checkpoint-7/resume/progress.json").touch()
    assert resume_point(config, folder) == {"from_phase": "2-boolq-train", "from_step": 7}


@pytest.mark.slow
def test_kept_checkpoints_outlive_a_command_that_does_not_ask_for_them(
    plain: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run(tmp_path, *plain, "train.keep_checkpoints=true")
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["checkpoint-2", "checkpoint-4"]
    run(tmp_path, *plain)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == kept


@pytest.mark.slow
def test_asking_a_done_run_for_checkpoints_says_what_to_do(
    plain: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run(tmp_path, *plain)
    capfd.readouterr()
    run_single(small_runs.configure(tmp_path, *plain, "train.keep_checkpoints=true"), execute)
    assert "its checkpoints were not kept; retry=all trains it again and keeps them" in capfd.readouterr().err
    run(tmp_path, *plain, "train.keep_checkpoints=true", "retry=all")
    assert (folder / "checkpoints" / "checkpoint-2").exists()


def test_too_little_room_for_what_will_be_written_is_said_before_training(
    plain: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.storage import files

    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 1000))  # type: ignore[attr-defined]
    monkeypatch.setattr(HarnessTrainer, "compute_loss", breaks(AssertionError("trained")))
    _, record = run(tmp_path, *plain)
    assert (record["status"], record["phase"]) == ("failed", "train")
    assert "free on the disk" in record["reason"]
