"""Training: order of items, gradients, options passed through, and what must not go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
from small_runs import history, run
from torch import nn

from harness import runtime
from harness.config import TrainConfig
from harness.errors import ConfigError
from harness.execution import session
from harness.execution.loading import attach, load
from harness.meter import Meter
from harness.methods.base import trainable
from harness.storage.record import RunFolder, Status
from harness.training.arguments import arguments, check_arguments
from harness.training.order import order_by_length, steps_of
from harness.training.trainer import HarnessTrainer, Job
from harness.training.watch import CheckGradients

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def bert(data_folder: Path) -> list[str]:
    """Return the overrides of a classification run on BERT-tiny."""
    return ["model=bert_tiny", *small_runs.task("classification", data_folder), "rank=4"]


@pytest.fixture
def gpt2(data_folder: Path, gpt2_folder: Path) -> list[str]:
    """Return the overrides of a classification run on a tiny GPT-2."""
    model = ["model=custom", f"model.path={gpt2_folder}"]
    return [*model, *small_runs.task("classification", data_folder), "rank=4"]


def padding(order: list[int], lengths: list[int], batch_size: int) -> float:
    """Return the share of padding in an order cut into batches."""
    batches = np.array(lengths)[order].reshape(-1, batch_size)
    return float(1 - batches.sum() / (batches.max(axis=1) * batch_size).sum())


@pytest.mark.parametrize("items", [3, 16, 100, 1000, 1601])
def test_each_epoch_has_each_item_once(items: int) -> None:
    lengths = np.random.default_rng(1).integers(5, 60, items).tolist()
    order = order_by_length(lengths, 16, 16 * 250, seed=0)
    assert len(order) == 16 * 250
    for start in range(0, len(order) - items + 1, items):
        assert sorted(order[start : start + items]) == list(range(items))


def test_order_depends_on_the_seed_alone() -> None:
    lengths = np.random.default_rng(1).integers(5, 60, 500).tolist()
    first = order_by_length(lengths, 16, 1600, seed=3)
    assert order_by_length(lengths, 16, 1600, seed=3) == first
    assert order_by_length(lengths, 16, 800, seed=3) == first[:800]  # a longer training begins as a shorter one
    assert order_by_length(lengths, 16, 1600, seed=4) != first
    assert first[:500] != first[500:1000]


@pytest.mark.parametrize("items", [4267, 4264, 808])
def test_little_of_a_batch_is_padding_in_every_epoch(items: int) -> None:
    """Also where an epoch does not divide into batches, and the next one begins in the middle of one."""
    lengths = np.random.default_rng(1).integers(5, 60, items).tolist()
    order = order_by_length(lengths, 16, 16 * 1000, seed=0)
    at_random = np.random.default_rng(2).integers(0, items, 16 * 1000).tolist()
    assert padding(at_random, lengths, 16) > 0.4
    for part in np.array_split(np.array(order).reshape(-1, 16), 5):
        assert padding(part.ravel().tolist(), lengths, 16) < 0.05


def test_batches_come_in_random_order_of_length() -> None:
    order = order_by_length(list(range(800)), 16, 800, seed=0)
    means = np.array(order).reshape(-1, 16).mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(50))[0, 1]) < 0.5


@pytest.mark.parametrize(
    ("settings", "items", "steps"),
    [
        ({"max_steps": 7}, 1000, 7),
        ({"max_steps": -1, "num_train_epochs": 1}, 33, 3),
        ({"max_steps": -1, "num_train_epochs": 2.5}, 32, 5),
        ({"max_steps": -1, "num_train_epochs": 1, "gradient_accumulation_steps": 4}, 129, 3),
        ({"max_steps": -1, "num_train_epochs": 0.001}, 20, 1),
    ],
)
def test_steps_are_those_asked_or_those_of_the_epochs(settings: dict[str, Any], items: int, steps: int) -> None:
    assert steps_of(TrainConfig(**settings), items) == steps


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


@pytest.mark.parametrize(
    ("overrides", "rates"),
    [
        (["train.lr_scheduler_type=constant"], [1, 1, 1, 1]),
        (["train.lr_scheduler_type=constant_with_warmup", "train.warmup_steps=2"], [0, 0.5, 1, 1]),
        (["train.lr_scheduler_type=linear", "train.warmup_steps=0"], [1, 0.75, 0.5, 0.25]),
        (["train.lr_scheduler_type=linear", "train.warmup_steps=0.5"], [0, 0.5, 1, 0.5]),
        (["train.lr_scheduler_type=cosine", "train.warmup_steps=0"], [1, 0.8535534, 0.5, 0.1464466]),
        (
            [
                "train.lr_scheduler_type=cosine_with_min_lr",
                "train.warmup_steps=0",
                "+train.lr_scheduler_kwargs.min_lr=5e-4",
            ],
            [1, 0.9267767, 0.75, 0.5732233],
        ),
    ],
)
def test_schedules_and_warm_up_reach_the_optimiser(
    overrides: list[str], rates: list[float], bert: list[str], tmp_path: Path
) -> None:
    folder, _ = run(tmp_path, *bert, "train.learning_rate=1e-3", "train.save_steps=0", *overrides)
    assert [entry["learning_rate"] for entry in history(folder)] == pytest.approx([1e-3 * rate for rate in rates])


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.optim=adamw_8bit"],
        ["train.optim=adafactor", "method=full"],
        ["train.optim=sgd"],
        ["train.optim=adamw_torch", "train.weight_decay=0.1", "train.adam_beta2=0.95"],
        ["train.bf16=true"],
        ["model.dtype=bfloat16"],
        ["train.gradient_checkpointing=true", "method=full"],
        ["train.max_grad_norm=0"],
        ["train.max_steps=-1", "train.num_train_epochs=0.1", "train.gradient_accumulation_steps=2"],
        ["+train.other.torch_empty_cache_steps=2", "+train.other.logging_first_step=true"],
        ["train.full_determinism=true"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_options_of_the_trainer_work(overrides: list[str], bert: list[str], tmp_path: Path) -> None:
    folder, record = run(tmp_path, *bert, "train.learning_rate=2e-2", *overrides)
    assert record["status"] == Status.done, record["traceback"]
    assert record["steps"] == len(history(folder))
    assert record["scores"]["after"] != record["scores"]["before"]


def test_determinism_asked_by_one_run_does_not_reach_the_next(bert: list[str], tmp_path: Path) -> None:
    run(tmp_path, *bert, "train.full_determinism=true")
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_option_reaches_the_trainer(tmp_path: Path) -> None:
    given = {
        "max_steps": 3,
        "per_device_train_batch_size": 5,
        "gradient_accumulation_steps": 2,
        "weight_decay": 0.25,
        "adam_beta1": 0.8,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-6,
        "max_grad_norm": 0.5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "logging_steps": 7,
        "save_steps": 9,
        "neftune_noise_alpha": 3.0,
        "dataloader_num_workers": 1,
    }
    settings = TrainConfig(**given, optim="adafactor", learning_rate=1e-4, other={"torch_empty_cache_steps": 4})
    config = replace(small_runs.configure(tmp_path, "method=lora"), train=settings, seed=11)
    made = arguments(config, runtime.resolve(config), 3, tmp_path)
    assert {name: getattr(made, name) for name in given} == given
    assert (made.learning_rate, made.seed, made.optim, made.torch_empty_cache_steps) == (1e-4, 11, "adafactor", 4)
    assert made.report_to == []


def test_what_the_trainer_refuses_is_said_before_training(bert: list[str], tmp_path: Path) -> None:
    config = small_runs.configure(tmp_path, *bert)
    here = runtime.resolve(config)
    check_arguments(config, here)
    config.train.other = {"torch_dtypo": 1}
    with pytest.raises(ConfigError, match="torch_dtypo"):
        check_arguments(config, here)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.optim=schedule_free_adamw"], "train.optim=schedule_free_adamw: .*schedulefree"),
        (
            ["train.optim=galore_adamw", "+train.other.optim_target_modules=[query]"],
            "train.optim=galore_adamw: .*galore",
        ),
        (
            ["train.optim=apollo_adamw", "+train.other.optim_target_modules=[query]"],
            "train.optim=apollo_adamw: .*apollo",
        ),
        (["train.optim=lomo"], "train.optim=lomo: .*lomo"),
        (["+train.other.use_liger_kernel=true"], "use_liger_kernel=True: needs the package liger-kernel"),
        (["+train.other.dataloader_persistent_workers=true"], "needs train.dataloader_num_workers=1"),
    ],
)
def test_what_would_fail_run_by_run_is_refused_before_training(
    overrides: list[str], said: str, bert: list[str], tmp_path: Path
) -> None:
    config = small_runs.configure(tmp_path, *bert, *overrides)
    with pytest.raises(ConfigError, match=said):
        check_arguments(config, runtime.resolve(config))


@pytest.mark.parametrize(
    "option", ["data_seed=3", "auto_find_batch_size=true", "accelerator_config={}", "group_by_length=true", "seed=1"]
)
def test_options_that_change_nothing_or_make_the_record_untrue_are_refused(
    option: str, bert: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"train.other.{option.partition('=')[0]}="):
        small_runs.configure(tmp_path, *bert, f"+train.other.{option}")


def test_two_rates_of_lora_plus_are_scheduled_together(gpt2: list[str], tmp_path: Path) -> None:
    """With a ratio of 1 it is plain LoRA; with another only B's rate differs, so A stays at first."""
    states = {}
    for ratio in ("null", "1", "16"):
        overrides = ["train.max_steps=2", f"method.lora_plus_ratio={ratio}", "train.optim=sgd", "train.max_grad_norm=0"]
        folder, _ = run(tmp_path, *gpt2, *overrides, "train.warmup_steps=0", "train.learning_rate=0.01")
        states[ratio] = small_runs.tensors(folder / "trained")
    for name, plain in states["null"].items():
        torch.testing.assert_close(states["1"][name], plain)
        assert torch.equal(states["16"][name], plain) is False


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
    assert "TrainingError" in record["traceback"]
    assert [entry["step"] for entry in history(folder)] == [1, 2]
    assert "scores" not in record
    # The same command tries again, from the start and not from the checkpoint of step 2.
    _, record = run(tmp_path, *bert)
    assert (record["status"], len(record["attempts"]), record["reason"]) == ("done", 2, None)
    assert len(calls) == 3 + 4
    assert "traceback" not in record and record["interruptions"] == 0


def test_an_infinite_loss_fails(gpt2: list[str], tmp_path: Path) -> None:
    run_options = ["method=full", "train.learning_rate=1e30", "train.optim=sgd", "train.max_grad_norm=0"]
    _, record = run(tmp_path, *gpt2, *run_options, "train.warmup_steps=0")
    assert record["status"] == "failed"
    assert "the loss is" in record["reason"] and "at step 2" in record["reason"]


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


def test_prefix_under_gradient_checkpointing_fails_on_bert(bert: list[str], tmp_path: Path) -> None:
    """Its head would train without an error, and the prefix not at all."""
    _, record = run(tmp_path, *bert, "method=prefix", "train.gradient_checkpointing=true")
    assert record["status"] == "failed"
    assert "prompt_encoder" in record["reason"]
    assert "gradient" in record["reason"]


@pytest.mark.parametrize("method", ["lora", "bitfit", "adapter", "prompt", "head_only"])
def test_gradient_checkpointing_trains_the_others(method: str, bert: list[str], tmp_path: Path) -> None:
    plain, _ = run(tmp_path / "plain", *bert, f"method={method}")
    checkpointed, record = run(tmp_path / "less", *bert, f"method={method}", "train.gradient_checkpointing=true")
    assert record["status"] == Status.done, record["reason"]
    for ours, theirs in zip(history(plain), history(checkpointed), strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)


def test_history_has_a_line_a_step(bert: list[str], tmp_path: Path) -> None:
    folder, record = run(tmp_path, *bert)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert set(lines[0]) == {"step", "loss", "learning_rate", "grad_norm", "epoch", "tokens", "seconds"}
    assert lines[-1]["epoch"] == pytest.approx(16 / 120)
    assert lines[-1]["tokens"] == record["tokens"]


def test_tokens_are_counted_without_padding(bert: list[str], tmp_path: Path) -> None:
    folder, record = run(tmp_path, *bert)
    config = small_runs.configure(tmp_path, *bert)
    features = session.prepare(config).features
    order = order_by_length([f["length"] for f in features], 4, 16, config.seed)
    assert record["tokens"] == sum(features[index]["length"] for index in order)
    assert history(folder)[0]["tokens"] == sum(features[index]["length"] for index in order[:4])


def test_evaluating_along_the_way_changes_no_result(gpt2: list[str], tmp_path: Path) -> None:
    dropout = "method.dropout=0.3"
    plain, first = run(tmp_path / "plain", *gpt2, dropout)
    watched, second = run(tmp_path / "watched", *gpt2, dropout, "train.eval_steps=2")
    small_runs.assert_same_tensors(plain / "trained", watched / "trained")
    assert first["scores"] == second["scores"]
    found = [entry.get("validation/accuracy") for entry in history(watched)]
    assert found[0] is None and found[2] is None
    assert found[3] == second["scores"]["after"]["validation"]["accuracy"]["value"]


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


def test_dtype_of_one_run_does_not_reach_the_next(bert: list[str], tmp_path: Path) -> None:
    alone, _ = run(tmp_path / "alone", *bert)
    run(tmp_path / "other", *bert, "train.bf16=true")
    after, _ = run(tmp_path / "after", *bert)
    small_runs.assert_same_run(alone, after)
