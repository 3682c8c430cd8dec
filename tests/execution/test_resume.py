"""A run that was cut, wherever, ends with the very record, history and weights of one that was not."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from small_runs import assert_same_run, run

from harness.execution import pipeline
from harness.execution.execute import execute
from harness.storage.record import RunFolder, Status, read_record
from harness.training import trainer as training
from harness.training.trainer import HarnessTrainer

pytestmark = pytest.mark.usefixtures("quick")
BERT, LLAMA, GPT2 = "bert_tiny", "llama", "gpt2"
CASES: dict[str, tuple[str, list[str]]] = {
    "full": (BERT, ["method=full"]),
    "head_only": (BERT, ["method=head_only"]),
    "bitfit": (BERT, ["method=bitfit"]),
    "bitfit_added": (LLAMA, ["method=bitfit", "method.add_biases=true"]),
    "lora_dropout": (LLAMA, ["method=lora", "method.dropout=0.2"]),
    "lora_plus": (LLAMA, ["method=lora", "method.lora_plus_ratio=8"]),
    "pissa": (BERT, ["method=lora", "method.init=pissa"]),
    "qlora": (LLAMA, ["method=qlora"]),
    "prefix": (GPT2, ["method=prefix", "method.length=4"]),
    "prefix_projected": (BERT, ["method=prefix", "method.length=4", "method.projection=true"]),
    "prompt": (GPT2, ["method=prompt", "method.length=4"]),
    "adapter": (GPT2, ["method=adapter", "method.size=4"]),
    "vera": (BERT, ["method=peft", "method.peft_type=VERA", "+method.options.r=4"]),
    "adafactor": (BERT, ["method=full", "train.optim=adafactor"]),
    "cosine": (GPT2, ["train.lr_scheduler_type=cosine_with_min_lr", "+train.lr_scheduler_kwargs.min_lr=1e-5"]),
    "accumulated": (LLAMA, ["train.gradient_accumulation_steps=2"]),
    "bf16": (LLAMA, ["train.bf16=true"]),
    "neftune": (GPT2, ["method=full", "train.neftune_noise_alpha=5"]),
    "workers": (GPT2, ["train.dataloader_num_workers=1"]),
    "checkpointed": (GPT2, ["train.gradient_checkpointing=true", "method.dropout=0.2"]),
}


@pytest.fixture
def overrides(data_folder: Path, llama_folder: Path, gpt2_folder: Path) -> Callable[..., list[str]]:
    """Return a function from a model's name and further overrides to those of a classification run."""
    folders = {LLAMA: llama_folder, GPT2: gpt2_folder}

    def make(model: str, *more: str) -> list[str]:
        chosen = ["model=bert_tiny"] if model == BERT else ["model=custom", f"model.path={folders[model]}"]
        return [*chosen, *small_runs.task("classification", data_folder), "rank=4", *more]

    return make


@contextmanager
def cut_before_step(step: int) -> Iterator[None]:
    """Interrupt training as Ctrl-C does, in the middle of the step after `step - 1` whole ones."""
    original = HarnessTrainer.compute_loss

    def interrupted(self: HarnessTrainer, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step - 1:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HarnessTrainer, "compute_loss", interrupted)
        yield


def interrupt(folder: Path, step: int, overrides: list[str]) -> None:
    """Start a run and cut it at `step`; its record then says that it is running."""
    with cut_before_step(step), pytest.raises(KeyboardInterrupt):
        execute(small_runs.configure(folder, *overrides))
    assert read_record(only_run(folder))["status"] == Status.running


def only_run(folder: Path) -> Path:
    """Return the one run folder in `folder`."""
    (found,) = (path for path in folder.iterdir() if not path.name.startswith("."))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_interrupted_run_ends_as_an_uninterrupted_one(
    name: str, overrides: Callable[..., list[str]], tmp_path: Path
) -> None:
    model, chosen = CASES[name]
    whole, record = run(tmp_path / "whole", *overrides(model, *chosen))
    assert record["status"] == Status.done, record.get("traceback")
    interrupt(tmp_path / "cut", 4, overrides(model, *chosen))
    assert [path.name for path in (only_run(tmp_path / "cut") / "checkpoints").iterdir()] == ["checkpoint-2"]
    torch.manual_seed(99)  # whatever the new process begins with
    resumed, record = run(tmp_path / "cut", *overrides(model, *chosen))
    assert (record["interruptions"], len(record["attempts"])) == (1, 2)
    assert_same_run(whole, resumed)
    assert not (resumed / "checkpoints").exists()


def test_steps_before_the_checkpoint_are_not_trained_again(
    overrides: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path, 4, overrides(BERT))
    original, trained = HarnessTrainer.compute_loss, []

    def counted(self: HarnessTrainer, *arguments: Any, **options: Any) -> Any:
        trained.append(self.state.global_step + 1)
        return original(self, *arguments, **options)

    monkeypatch.setattr(HarnessTrainer, "compute_loss", counted)
    run(tmp_path, *overrides(BERT))
    assert trained == [3, 4]


@pytest.mark.slow
def test_cut_several_times_and_across_epochs(overrides: Callable[..., list[str]], tmp_path: Path) -> None:
    """20 items in batches of 4: an epoch has 5 steps, and its end falls on a checkpoint."""
    long = overrides(BERT, "task.max_train=20", "train.max_steps=12", "train.save_steps=5", "method.dropout=0.1")
    whole, _ = run(tmp_path / "whole", *long)
    for step in (3, 6, 11):
        interrupt(tmp_path / "cut", step, long)
    resumed, record = run(tmp_path / "cut", *long)
    assert (record["interruptions"], len(record["attempts"])) == (2, 4)
    assert_same_run(whole, resumed)


@pytest.mark.slow
def test_epochs_that_do_not_divide_into_batches(overrides: Callable[..., list[str]], tmp_path: Path) -> None:
    long = overrides(BERT, "task.max_train=18", "train.max_steps=-1", "train.num_train_epochs=2")
    whole, record = run(tmp_path / "whole", *long)
    assert record["steps"] == 9  # 36 items in batches of 4
    interrupt(tmp_path / "cut", 6, long)
    assert_same_run(whole, run(tmp_path / "cut", *long)[0])


@pytest.mark.slow
def test_history_lines_between_save_and_cut_are_written_once(
    overrides: Callable[..., list[str]], tmp_path: Path
) -> None:
    sparse = overrides(BERT, "train.max_steps=9", "train.save_steps=4", "train.logging_steps=3", "train.eval_steps=5")
    whole, _ = run(tmp_path / "whole", *sparse)
    steps = [entry["step"] for entry in small_runs.history(whole)]
    assert steps == [3, 4, 5, 6, 8, 9]  # logged, saved, evaluated
    interrupt(tmp_path / "cut", 7, sparse)
    with (only_run(tmp_path / "cut") / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')  # as a power cut leaves it
    assert_same_run(whole, run(tmp_path / "cut", *sparse)[0])


@pytest.mark.slow
def test_cut_while_a_checkpoint_is_written(
    overrides: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(tmp_path / "whole", *overrides(BERT))
    original = training.save_state

    def dies(folder: Path, name: str, state: Any) -> None:
        if folder.parent.name.startswith(".checkpoint-4."):
            (folder / "progress.json").write_text("{", encoding="utf-8")
            shutil.copytree(folder.parent, tmp_path / "left")
            raise KeyboardInterrupt
        original(folder, name, state)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "save_state", dies)
        run(tmp_path / "cut", *overrides(BERT))
    checkpoints = only_run(tmp_path / "cut") / "checkpoints"
    shutil.copytree(tmp_path / "left", checkpoints / ".checkpoint-4.part")  # a killed process cannot clear up
    resumed, record = run(tmp_path / "cut", *overrides(BERT))
    assert record["interruptions"] == 1
    assert_same_run(whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("last", ["tuned", "results", "read_outcomes"])
def test_cut_between_training_and_record(
    last: str, overrides: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained again: the checkpoint of the last step goes only after the record is there."""
    whole, _ = run(tmp_path / "whole", *overrides(BERT))
    shutil.copytree(tmp_path / "whole" / ".base", tmp_path / "cut" / ".base")

    def dies(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, last, dies)
        run(tmp_path / "cut", *overrides(BERT))
    monkeypatch.setattr(HarnessTrainer, "compute_loss", dies)
    resumed, record = run(tmp_path / "cut", *overrides(BERT))
    assert record["tokens_per_second"] > 0
    assert_same_run(whole, resumed)


@pytest.mark.slow
def test_seconds_of_all_attempts_are_counted(
    overrides: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = HarnessTrainer.compute_loss

    def slow(self: HarnessTrainer, *arguments: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(HarnessTrainer, "compute_loss", slow)
        interrupt(tmp_path, 4, overrides(BERT))
    _, record = run(tmp_path, *overrides(BERT))
    assert record["seconds"]["train"] > 0.4  # two slow steps before the checkpoint
    assert record["tokens_per_second"] < record["tokens"] / 0.4


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
def test_checkpoints_are_kept_as_asked(keep: bool, overrides: Callable[..., list[str]], tmp_path: Path) -> None:
    kept = overrides(BERT, f"train.keep_checkpoints={str(keep).lower()}", "train.save_steps=1")
    interrupt(tmp_path, 4, kept)
    folder, _ = run(tmp_path, *kept)
    found = sorted(path.relative_to(folder).as_posix() for path in folder.glob("checkpoints/*/*.safetensors"))
    steps = (1, 2, 3, 4) if keep else ()
    assert found == [f"checkpoints/checkpoint-{step}/adapter_model.safetensors" for step in steps]
    if keep:
        small_runs.assert_same_tensors(folder / "checkpoints" / "checkpoint-4", folder / "trained")


@pytest.mark.slow
def test_what_a_done_run_left_behind_is_removed_by_the_next_command(
    overrides: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "tidy", dies)
        run(tmp_path, *overrides(BERT))
    folder = only_run(tmp_path)
    assert (folder / "phases" / "train").exists()
    _, record = run(tmp_path, *overrides(BERT))
    assert not (folder / "phases").exists()
    assert len(record["attempts"]) == 1


@pytest.mark.slow
def test_killed_process_resumes_and_ends_as_one_never_killed(
    overrides: Callable[..., list[str]], tmp_path: Path
) -> None:
    long = overrides(LLAMA, "method.dropout=0.2", "train.max_steps=3000", "train.save_steps=5")
    process = small_runs.start_process(*long, f"output_dir={tmp_path / 'cut'}")
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "cut").glob("*/checkpoints/checkpoint-*")):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    killed = only_run(tmp_path / "cut")
    assert read_record(killed)["status"] == Status.running
    step = max(int(path.name.split("-")[1]) for path in (killed / "checkpoints").glob("checkpoint-*"))
    # The rest in this process; 3000 steps were there only to leave time for the kill.
    assert step < 3000
    assert_resumes_to_the_bit(killed, step + 5, overrides, long, tmp_path)


def assert_resumes_to_the_bit(
    killed: Path, stop: int, overrides: Callable[..., list[str]], long: list[str], tmp_path: Path
) -> None:
    """Compare the checkpoint that the killed run reaches at `stop` with that of a run that was never killed."""
    for folder in (tmp_path / "cut", tmp_path / "whole"):
        interrupt(folder, stop + 1, long)
    whole = only_run(tmp_path / "whole")
    names = f"checkpoints/checkpoint-{stop}"
    small_runs.assert_same_tensors(killed / names, whole / names)  # the optimiser's state among them
    assert small_runs.history(killed) == small_runs.history(whole)
