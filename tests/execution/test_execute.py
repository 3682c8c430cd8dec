"""Whole runs: every method on every model, the same twice, and what is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from small_runs import assert_same_run, assert_same_tensors, run, tensors

from harness.execution import execute as execution
from harness.execution import pipeline
from harness.execution.execute import execute
from harness.execution.reload import load_run
from harness.storage.outcomes import read_items
from harness.storage.record import Status, comparable, read_record

pytestmark = pytest.mark.usefixtures("quick")


METHODS: dict[str, list[str]] = {
    "full": ["method=full"],
    "head_only": ["method=head_only"],
    "lora": ["method=lora"],
    "dora": ["method=lora", "method.dora=true"],
    "pissa": ["method=lora", "method.init=pissa"],
    "rslora": ["method=rslora"],
    "qlora": ["method=qlora"],
    "prefix": ["method=prefix"],
    "prompt": ["method=prompt"],
    "bitfit": ["method=bitfit"],
    "adapter": ["method=adapter"],
    "ia3": ["method=peft", "method.peft_type=IA3"],
}


NO_BIASES = "the model has no biases to train; method.add_biases=true gives it zero biases"


TIED = "the model's output layer is tied to its input embedding; there is no separate head to train"


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_bert_tiny_and_comes_back(name: str, bert: list[str], tmp_path: Path) -> None:
    trains_and_comes_back([*bert, *METHODS[name]], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora", "rslora", "qlora", "prefix", "prompt", "adapter", "ia3"])
def test_every_method_trains_a_decoder_and_comes_back(name: str, llama: list[str], tmp_path: Path) -> None:
    trains_and_comes_back([*llama, *METHODS[name]], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_meets_smollm2(name: str, short_smollm2: Path, data_folder: Path, tmp_path: Path) -> None:
    """In two of its layers; the tests of probes train LoRA on them all."""
    model = ["model=custom", f"model.path={short_smollm2}", *small_runs.task("classification", data_folder)]
    few = ["train.max_steps=1", "train.save_steps=0", "task.max_test=8", "task.max_validation=8"]
    _, record = run(tmp_path, *model, *METHODS[name], *few)
    expected = {"bitfit": NO_BIASES, "head_only": TIED}.get(name)
    status = Status.not_applicable if expected else Status.done
    assert (record["status"], record["reason"]) == (status, expected)


def trains_and_comes_back(overrides: list[str], tmp_path: Path) -> None:
    """Train; then load the trained state onto a fresh model, and require the very same outcomes of it."""
    folder, record = run(tmp_path, *overrides, "train.max_steps=2", "train.learning_rate=0.02", "train.warmup_steps=0")
    assert record["status"] == Status.done, record["reason"]
    assert 0 < record["parameters"]["trainable"] <= 1.2 * record["parameters"]["total"]
    model, _, prepared = load_run(folder)
    config = small_runs.configure(tmp_path, *overrides)
    again = small_runs.answer(model, prepared.objective, prepared.questions, config)
    found = read_items(folder / "items.parquet")
    assert repr(again) == repr(found["after"])
    assert repr(again) != repr(found["before"])
    assert_no_pickles(tmp_path)


def assert_no_pickles(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]  # empty
    endings = {path.suffix for path in files}
    assert endings <= {".json", ".jsonl", ".parquet", ".safetensors", ".md"}


@pytest.mark.slow
def test_checkpoints_hold_no_pickles_either(bert: list[str], tmp_path: Path) -> None:
    folder, _ = run(tmp_path, *bert, "train.keep_checkpoints=true", "method=full")
    assert list((folder / "checkpoints").rglob("*.safetensors"))
    assert_no_pickles(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method=bitfit"], NO_BIASES),
        (["method=lora", "method.init=pissa", "rank=64"], "method.init=pissa gives no rank 64"),
        (["method=peft", "method.peft_type=ADALORA"], "ADALORA"),
    ],
)
def test_what_does_not_apply_is_recorded_with_its_reason(
    overrides: list[str], reason: str, llama: list[str], tmp_path: Path
) -> None:
    folder, record = run(tmp_path, *llama, *overrides)
    assert record["status"] == Status.not_applicable
    assert reason in record["reason"]
    assert "traceback" not in record
    before = (folder / "record.json").stat().st_mtime_ns
    assert run(tmp_path, *llama, *overrides)[1] == record
    assert (folder / "record.json").stat().st_mtime_ns == before  # it is final


@pytest.mark.slow
def test_task_that_does_not_fit_the_model_is_not_applicable(
    data_folder: Path, llama_folder: Path, tmp_path: Path
) -> None:
    for kind, model in (
        ("regression", ["model=custom", f"model.path={llama_folder}"]),
        ("instruction", ["model=bert_tiny"]),
    ):
        _, record = run(tmp_path, *model, *small_runs.task(kind, data_folder))
        assert record["status"] == Status.not_applicable
        assert "needs a" in record["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classification", "multiple_choice", "instruction", "language_modeling"])
def test_kinds_of_task_on_a_decoder(kind: str, data_folder: Path, gpt2_folder: Path, tmp_path: Path) -> None:
    check_kind(kind, ["model=custom", f"model.path={gpt2_folder}"], data_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classification", "multiple_choice", "regression"])
def test_kinds_of_task_on_an_encoder(kind: str, data_folder: Path, tmp_path: Path) -> None:
    check_kind(kind, ["model=bert_tiny"], data_folder, tmp_path)


def check_kind(kind: str, model: list[str], data: Path, tmp_path: Path) -> None:
    learn = ["method=full", "train.max_steps=16", "train.learning_rate=5e-3", "train.save_steps=0"]
    folder, record = run(tmp_path, *model, *small_runs.task(kind, data), *learn)
    assert record["status"] == Status.done, record["traceback"]
    losses = [entry["loss"] for entry in small_runs.history(folder)]
    if kind != "multiple_choice":  # whose answers are as good as random
        assert sum(losses[-5:]) < sum(losses[:5])
    for phase in ("before", "after"):
        for split, count in (("validation", 16), ("test", 24)):
            for score in record["scores"][phase][split].values():
                assert kind == "language_modeling" or score["n"] == count
                assert score["value"] is None or score["low"] <= score["value"] <= score["high"]
    assert record["metric"] in record["scores"]["after"]["test"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(samples) == (0 if kind == "language_modeling" else 8)
    assert all(set(row) == {"item", "input", "base", "tuned", "reference"} and row["input"] for row in samples)
    items = read_items(folder / "items.parquet")
    assert list(items) == ["before", "after"]
    assert [o.item for o in items["before"]["test"]] == [o.item for o in items["after"]["test"]]


def test_record_says_what_was_run(bert: list[str], tmp_path: Path) -> None:
    folder, record = run(tmp_path, *bert)
    phases = {"tokenise", "load", "evaluate_base", "train", "evaluate", "save"}
    sections = phases | {"around_training", "checkpoint"}
    assert set(record["memory"]) == set(record["seconds"]) == sections
    assert all(peak["resident_gib"] > 0 for peak in record["memory"].values())
    assert record["tokens_per_second"] > 0 and record["tokens"] > 0
    saved = sum(path.stat().st_size for path in (folder / "trained").glob("*.safetensors"))
    assert record["parameters"]["saved_bytes"] == saved
    assert record["data"]["items"] == {"train": 120, "validation": 16, "test": 24}
    assert len(record["hashes"]["data"]) == 64 and record["hashes"]["model"]
    assert record["config"]["task"]["kind"] == "classification"
    assert record["config"]["method"]["name"] == "lora"
    assert record["versions"]["torch"] == torch.__version__
    assert (folder / "trained" / "adapter_config.json").exists()


@pytest.mark.slow
def test_no_secret_of_the_environment_is_written(
    bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_test")
    monkeypatch.setenv("WANDB_API_KEY", "wandb_secret_of_the_test")
    run(tmp_path, *bert, "train.max_steps=1")
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"secret_of_the_test" in text or b"HF_TOKEN" in text for text in texts)


@pytest.mark.slow
def test_same_seed_gives_the_same_and_another_does_not(llama: list[str], tmp_path: Path) -> None:
    dropout = "method.dropout=0.3"
    first, _ = run(tmp_path / "first", *llama, dropout)
    torch.rand(7)
    second, _ = run(tmp_path / "second", *llama, dropout)
    assert_same_run(first, second)
    other, _ = run(tmp_path / "second", *llama, dropout, "seed=1")
    assert other != second
    ours, theirs = tensors(first / "trained"), tensors(other / "trained")
    assert all(not torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_a_later_run_is_the_run_alone(llama: list[str], data_folder: Path, tmp_path: Path) -> None:
    """After other methods, models and tasks in the same process, to the bit as in a process of its own."""
    process = small_runs.start_process(*llama, "method=lora", f"output_dir={tmp_path / 'alone'}")
    try:
        for others in (["method=full"], ["method=qlora"], ["method=prompt"], ["seed=4", "train.bf16=true"]):
            run(tmp_path / "sweep", *llama, *others)
        run(tmp_path / "sweep", "model=bert_tiny", *small_runs.task("multiple_choice", data_folder))
        last, _ = run(tmp_path / "sweep", *llama, "method=lora")
        text, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, text
    assert_same_run(tmp_path / "alone" / last.name, last)


@pytest.mark.slow
def test_done_run_is_skipped(bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, record = run(tmp_path, *bert)
    monkeypatch.setattr(execution, "work", lambda *_: pytest.fail("trained again"))
    written = (folder / "record.json").stat().st_mtime_ns
    assert execute(small_runs.configure(tmp_path, *bert)) is Status.done
    assert (folder / "record.json").stat().st_mtime_ns == written
    assert read_record(folder) == record


@pytest.mark.slow
def test_tracker_is_told_and_finished(bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import tracking

    calls: list[Any] = []

    class Spy(tracking.NullTracker):
        url_or_folder = "somewhere"

        def log(self, metrics: dict[str, float], step: int) -> None:
            calls.append((step, set(metrics)))

        def finish(self, status: str) -> None:
            calls.append(status)

    monkeypatch.setattr(tracking, "start", lambda *_: Spy())
    _, record = run(tmp_path, *bert, "train.max_steps=1")
    assert calls == [(1, {"loss", "learning_rate", "grad_norm", "epoch", "tokens"}), "done"]
    assert record["tracker"] == "somewhere"
    monkeypatch.setattr(pipeline, "learn", lambda *_: 1 / 0)
    run(tmp_path, *bert, "seed=1")
    assert calls[-1] == "failed"


@pytest.mark.slow
def test_offline_tracking_changes_no_result(bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home" / name.lower()))
    plain, first = run(tmp_path / "plain", *bert)
    tracked, second = run(tmp_path / "tracked", *bert, "tracker=wandb", "tracker.mode=offline")
    assert comparable(first) == comparable(second)
    assert_same_tensors(plain / "trained", tracked / "trained")
    assert list(tracked.glob("wandb/offline-run-*/*.wandb"))


def test_waiting_is_off_unless_asked(bert: list[str], tmp_path: Path, make_holder: Callable[[Path], None]) -> None:
    config = small_runs.configure(tmp_path, *bert)
    make_holder(small_runs.folder_of(config))
    assert execute(config) is None


@pytest.fixture
def make_holder() -> Any:
    """Return a function that holds a run as another process would, until the test ends."""
    from contextlib import ExitStack

    from harness.storage.record import RunFolder

    with ExitStack() as stack:

        def hold(folder: Path) -> None:
            assert stack.enter_context(RunFolder(folder.parent, folder.name).lock(wait=False))

        yield hold
