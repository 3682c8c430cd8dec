"""Training: gradients, what is counted and logged, and what must not go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from small_runs import history, run
from torch import nn

from harness import runtime
from harness.execution import session
from harness.execution.loading import attach, load
from harness.meter import Meter
from harness.methods.base import trainable
from harness.storage.record import RunFolder, Status
from harness.training.arguments import arguments
from harness.training.order import order_by_length
from harness.training.trainer import HarnessTrainer, Job
from harness.training.watch import CheckGradients

pytestmark = pytest.mark.usefixtures("quick")


def gradients(overrides: list[str], folder: Path, batch: int, accumulated: int) -> dict[str, torch.Tensor]:
    """Return the gradients of a first step, before they are clipped."""
    sizes = [f"train.per_device_train_batch_size={batch}", f"train.gradient_accumulation_steps={accumulated}"]
    config = small_runs.configure(folder, *overrides, *sizes, "train.max_grad_norm=0")
    prepared = session.prepare(config)
    here = runtime.resolve(config)
    backbone = load(config, prepared, here)
    model = attach(config, backbone, here)
    taken: dict[str, torch.Tensor] = {}

    class Take(CheckGradients):
        def on_pre_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
            taken.update({name: p.grad.clone() for name, p in trainable(kwargs["model"]).items() if p.grad is not None})

    record, objective = RunFolder(folder, "gradients"), prepared.objective
    job = Job(config, model, backbone.head, objective, prepared.features, record, Meter(here), here)
    trainer = HarnessTrainer(arguments(config, here, 1, folder), job)
    trainer.add_callback(Take([]))
    trainer.train()
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classification", "instruction", "language_modeling"])
def test_accumulated_gradients_are_those_of_one_large_batch(
    kind: str, data_folder: Path, llama_folder: Path, tmp_path: Path
) -> None:
    """Batches with different numbers of target tokens weigh by their tokens, not by their number."""
    model = ["model=custom", f"model.path={llama_folder}", "method=full", "seed=1"]
    overrides = [*model, *small_runs.task(kind, data_folder), "task.max_train=-1"]
    one = gradients(overrides, tmp_path, 12, 1)
    many = gradients(overrides, tmp_path, 3, 4)
    assert one.keys() == many.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(many[name], gradient, rtol=1e-3, atol=1e-5)


def test_gradients_are_those_of_the_models_own_loss(data_folder: Path, llama_folder: Path, tmp_path: Path) -> None:
    llama = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    config = small_runs.configure(tmp_path, *llama, "method=full")
    prepared = session.prepare(config)
    taken = gradients([*llama, "method=full"], tmp_path, 4, 1)
    here = runtime.resolve(config)
    model = attach(config, load(config, prepared, here), here)
    order = order_by_length([f["length"] for f in prepared.features], 4, 4, config.seed)
    batch = prepared.objective.collate([prepared.features[index] for index in order])
    model.train()
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss.backward()
    for name, parameter in trainable(model).items():
        torch.testing.assert_close(taken[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_not_finite_fails_at_its_step(
    bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.objectives.head import Head

    original, calls = Head.loss, []

    def poisoned(self: Head, model: nn.Module, batch: Any) -> torch.Tensor:
        calls.append(1)
        return original(self, model, batch) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(Head, "loss", poisoned)
    folder, record = run(tmp_path, *bert)
    assert (record["status"], record["reason"].split(";")[0]) == ("failed", "the loss is nan at step 3")
    assert "DivergedError" in record["traceback"] and record["diverged"]
    assert [entry["step"] for entry in history(folder)] == [1, 2]
    assert "scores" not in record
    # The same command tries again, from the start and not from the checkpoint of step 2.
    _, record = run(tmp_path, *bert)
    assert (record["status"], len(record["attempts"]), record["reason"]) == ("done", 2, None)
    assert len(calls) == 3 + 4
    assert "traceback" not in record and record["interruptions"] == 0


@pytest.mark.slow
def test_an_infinite_loss_fails(gpt2: list[str], tmp_path: Path) -> None:
    run_options = ["method=full", "train.learning_rate=1e30", "train.optim=sgd", "train.max_grad_norm=0"]
    _, record = run(tmp_path, *gpt2, *run_options, "train.warmup_steps=0")
    assert record["status"] == "failed"
    assert "the loss is" in record["reason"] and "at step 2" in record["reason"]


@pytest.mark.slow
def test_a_last_step_that_breaks_the_weights_fails(gpt2: list[str], tmp_path: Path) -> None:
    """No loss is computed after it that could say so."""
    options = [
        "method=full",
        "train.learning_rate=3e38",
        "train.weight_decay=100",
        "train.optim=sgd",
        "train.max_steps=1",
        "train.warmup_steps=0",
        "train.max_grad_norm=0",
    ]
    _, record = run(tmp_path, *gpt2, *options)
    assert record["status"] == "failed"
    assert "is not finite after step 1" in record["reason"]


def test_tensor_without_a_gradient_fails_by_name(
    bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.methods.lora import LoRA

    original = LoRA.attach

    def with_idle(self: LoRA, backbone: Any) -> nn.Module:
        model = original(self, backbone)
        model.idle = nn.Parameter(torch.zeros(3))
        return model

    monkeypatch.setattr(LoRA, "attach", with_idle)
    _, record = run(tmp_path, *bert)
    assert record["status"] == "failed"
    assert record["reason"] == "idle is set to train but got no gradient"
    assert not record["diverged"]  # no learning rate would mend it


def test_prefix_under_gradient_checkpointing_fails_on_bert(bert: list[str], tmp_path: Path) -> None:
    """Its head would train without an error, and the prefix not at all."""
    _, record = run(tmp_path, *bert, "method=prefix", "train.gradient_checkpointing=true")
    assert record["status"] == "failed"
    assert "prompt_encoder" in record["reason"]
    assert "gradient" in record["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "bitfit", "adapter", "prompt", "head_only"])
def test_gradient_checkpointing_trains_the_others(method: str, bert: list[str], tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", *bert, f"method={method}")
    checkpointed, record = run(tmp_path / "less", *bert, f"method={method}", "train.gradient_checkpointing=true")
    assert record["status"] == Status.done, record["reason"]
    for ours, theirs in zip(history(plain), history(checkpointed), strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_selective_checkpointing_trains_the_same(method: str, gpt2: list[str], tmp_path: Path) -> None:
    options = [*gpt2, f"method={method}", *(["method.dropout=0.2"] if method == "lora" else [])]
    plain, _ = run(tmp_path / "plain", *options)
    selective, record = run(tmp_path / "less", *options, "train.selective_checkpointing=true")
    assert record["status"] == Status.done, record["reason"]
    assert [line["loss"] for line in history(selective)] == [line["loss"] for line in history(plain)]


@pytest.mark.slow
def test_history_has_a_line_a_step(bert: list[str], tmp_path: Path) -> None:
    folder, record = run(tmp_path, *bert)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert set(lines[0]) == {"step", "loss", "learning_rate", "grad_norm", "epoch", "tokens", "seconds"}
    assert lines[-1]["epoch"] == pytest.approx(16 / 120)
    assert lines[-1]["tokens"] == record["tokens"]


@pytest.mark.slow
def test_tokens_are_counted_without_padding(bert: list[str], tmp_path: Path) -> None:
    folder, record = run(tmp_path, *bert)
    config = small_runs.configure(tmp_path, *bert)
    features = session.prepare(config).features
    order = order_by_length([f["length"] for f in features], 4, 16, config.seed)
    assert record["tokens"] == sum(features[index]["length"] for index in order)
    assert history(folder)[0]["tokens"] == sum(features[index]["length"] for index in order[:4])


@pytest.mark.slow
def test_evaluating_along_the_way_changes_no_result(gpt2: list[str], tmp_path: Path) -> None:
    dropout = "method.dropout=0.3"
    plain, first = run(tmp_path / "plain", *gpt2, dropout)
    watched, second = run(tmp_path / "watched", *gpt2, dropout, "train.eval_steps=2")
    small_runs.assert_same_tensors(plain / "trained", watched / "trained")
    assert first["scores"] == second["scores"]
    found = [entry.get("validation/accuracy") for entry in history(watched)]
    assert found[0] is None and found[2] is None
    assert found[3] == second["scores"]["after"]["validation"]["accuracy"]["value"]


@pytest.mark.slow
def test_an_interval_of_the_earlier_command_is_not_kept(
    bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How often to save and log is no part of a run's identity, so a resumed run may change it."""
    original = HarnessTrainer.compute_loss

    def interrupted(self: HarnessTrainer, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(HarnessTrainer, "compute_loss", interrupted)
        run(tmp_path, *bert, "train.max_steps=10")
    folder, _ = run(tmp_path, *bert, "train.max_steps=10", "train.save_steps=5", "train.logging_steps=4")
    assert [entry["step"] for entry in history(folder)] == [1, 2, 4, 5, 8, 10]
