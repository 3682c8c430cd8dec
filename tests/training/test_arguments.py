"""Options of the Trainer: passed through, or refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import small_runs
import torch
from small_runs import history, run

from harness import runtime
from harness.config import TrainConfig
from harness.errors import ConfigError
from harness.storage.record import Status
from harness.training.arguments import arguments, check_arguments

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_dtype_of_one_run_does_not_reach_the_next(bert: list[str], tmp_path: Path) -> None:
    alone, _ = run(tmp_path / "alone", *bert)
    run(tmp_path / "other", *bert, "train.bf16=true")
    after, _ = run(tmp_path / "after", *bert)
    small_runs.assert_same_run(alone, after)
