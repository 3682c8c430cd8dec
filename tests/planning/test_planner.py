"""What a plan says: sizes that follow from the method and the precision, the largest batch, what cannot be planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.compose import compose
from harness.config import RunConfig
from harness.errors import ConfigError, NotApplicable
from harness.planning.cards import card
from harness.planning.gpu import CONTEXT, WORKSPACE
from harness.planning.plan import Fit, Plan, Planner, largest_that_fits

SMALL = {
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
WEIGHTS = 2 * 1024 * 256 + 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512 + 2 * 256) + 256
"""Embedding and output matrix; per layer q and o, k and v, three of the feed-forward, two norms; the last norm."""


def configure(*overrides: str) -> RunConfig:
    """Return a configuration of a Llama of two layers, of which there are no files."""
    config = compose("model=llama2_7b", "tracker=none", "forgetting=none", "rank=4", *overrides)
    return replace(config, model=replace(config.model, id=None, architecture=SMALL))


def plan(*overrides: str, batch_size: int | None = None) -> Plan:
    return Planner(configure(*overrides)).plan(batch_size)


def test_full_fine_tuning_holds_weights_gradients_and_two_moments_in_float32() -> None:
    found = plan("method=full")
    assert found.parameters == found.trainable == WEIGHTS
    rotary = found.bytes["weights"] - 4 * WEIGHTS
    assert 0 <= rotary < 2**13, "beside the parameters there are the rotary frequencies and each tensor's rounding"
    assert found.bytes["optimiser"] == pytest.approx(8 * WEIGHTS, rel=0.01)
    assert found.bytes["gradients"] <= 4 * WEIGHTS * 1.01


def test_lora_holds_gradients_and_moments_of_its_factors_alone() -> None:
    factors = 4 * 2 * (2 * (256 + 256) + 2 * (256 + 128) + 3 * (256 + 512))
    found = plan("method=lora")
    assert (found.trainable, found.parameters) == (factors, WEIGHTS)
    counters = 512 * 28
    """One of a block for each of 28 tensors: AdamW's count of steps."""
    assert found.bytes["optimiser"] == 8 * factors + counters
    assert found.bytes["weights"] == pytest.approx(4 * (WEIGHTS + factors), rel=0.01)


def test_sixteen_bits_hold_half_of_the_weights() -> None:
    found = plan("method=lora", "model.dtype=bfloat16")
    assert found.bytes["weights"] == pytest.approx(2 * WEIGHTS + 4 * found.trainable, rel=0.02)


def test_four_bits_take_an_eighth_of_the_layers_and_none_of_the_embeddings() -> None:
    found = plan("method=qlora")
    layers = WEIGHTS - 2 * 1024 * 256 - 5 * 256
    expected = 4 * (WEIGHTS - layers) + 4.127 / 8 * layers + 4 * found.trainable
    assert found.bytes["weights"] == pytest.approx(expected, rel=0.03)


def test_eight_bits_take_a_quarter() -> None:
    layers = WEIGHTS - 2 * 1024 * 256 - 5 * 256
    found = plan("method=qlora", "method.bits=8")
    assert found.bytes["weights"] == pytest.approx(4 * (WEIGHTS - layers) + layers + 4 * found.trainable, rel=0.03)


def test_a_paged_optimisers_state_is_named_apart() -> None:
    found = plan("method=full", "train.optim=paged_adamw_32bit")
    large = 2 * 1024 * 256 + 2 * 3 * 256 * 512
    assert found.bytes["paged"] == 8 * large, "two moments of what has at least 100,000 values"
    assert found.peak_bytes == sum(found.bytes.values()) - found.bytes["paged"]


def test_an_optimiser_of_eight_bits_takes_a_quarter_of_the_state() -> None:
    large = 1024 * 256
    found = plan("method=full", "train.optim=adamw_bnb_8bit")
    assert 2 * large < found.bytes["optimiser"] < 0.5 * 8 * WEIGHTS


def test_checkpointing_and_shorter_items_hold_fewer_activations() -> None:
    whole = plan("method=lora", "task.max_length=256")
    checkpointed = plan("method=lora", "task.max_length=256", "train.gradient_checkpointing=true")
    selective = plan("method=lora", "task.max_length=256", "train.selective_checkpointing=true")
    short = plan("method=lora", "task.max_length=64")
    assert checkpointed.bytes["activations"] < selective.bytes["activations"] < 0.8 * whole.bytes["activations"]
    assert whole.flops < selective.flops < 0.5 * (whole.flops + checkpointed.flops)
    assert checkpointed.bytes["activations"] < 0.7 * whole.bytes["activations"]
    assert short.bytes["activations"] < 0.3 * whole.bytes["activations"]


def test_accumulating_holds_no_more_than_a_part_of_the_batch() -> None:
    once = plan("method=lora", "train.per_device_train_batch_size=4")
    four = plan("method=lora", "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=4")
    assert once.peak_bytes <= four.peak_bytes < 1.05 * once.peak_bytes
    assert four.flops == pytest.approx(4 * once.flops)


def test_a_steps_products_are_six_a_weight_and_token_in_full_fine_tuning() -> None:
    """Kaplan et al. 2020 (arXiv 2001.08361), section 2.1: 2 forward, 4 backward; the embedding multiplies none."""
    found = plan("method=full", "task.max_length=64", batch_size=4)
    attention = 0.02
    assert found.flops == pytest.approx(6 * (WEIGHTS - 1024 * 256) * 4 * 64, rel=0.05 + attention)


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    gpu = replace(card("1GiB"), memory=CONTEXT + WORKSPACE + 300 * 2**20)
    planner = Planner(configure("method=lora"), gpu)
    largest = planner.largest()
    assert largest.fits is Fit.yes
    assert planner.plan(largest.batch_size + 1).fits is not Fit.yes
    assert largest.batch_size > 1


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 64, 100, 4096])
@pytest.mark.parametrize("power", [1.0, 1.3, 0.5])
def test_the_search_finds_any_limit_whether_or_not_memory_grows_in_proportion(limit: int, power: float) -> None:
    tried: list[int] = []

    def at(size: int) -> Any:
        tried.append(size)
        fits = Fit.yes if size <= limit else Fit.no
        return SimpleNamespace(batch_size=size, fits=fits, reserved_bytes=int(1e6 * size**power))

    assert largest_that_fits(at, at(1), int(1e6 * (limit + 0.5) ** power)).batch_size == limit
    assert len(tried) <= (5 if power == 1.0 else 30)


def test_a_batch_that_never_fits_is_said_in_one_line() -> None:
    planner = Planner(configure("method=full"), card("500MiB"))
    with pytest.raises(ConfigError, match=r"^batch=max: not even one item of \d+ tokens fits: it needs [\d.]+ GiB$"):
        planner.largest()


def test_a_method_that_does_not_fit_the_model_says_so() -> None:
    with pytest.raises(NotApplicable, match="no biases"):
        Planner(configure("method=bitfit"))


@pytest.mark.parametrize(
    ("tuner", "options"), [("VBLORA", {"vector_length": 64, "num_vectors": 8}), ("WAVEFT", {"n_frequency": 20})]
)
def test_a_tuner_whose_step_reads_numbers_is_refused_in_one_line(tuner: str, options: dict[str, int]) -> None:
    config = configure("method=peft", f"method.peft_type={tuner}", "task=openwebtext", "task.max_length=32")
    line = r"^method=peft: its training step cannot run without numbers: [^\n]+$"
    with pytest.raises(ConfigError, match=line):
        Planner(replace(config, method=replace(config.method, options=options))).plan(1)


def test_a_models_own_code_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "new", "auto_map": {"AutoModel": "m.M"}}', encoding="utf-8")
    with pytest.raises(ConfigError, match="brings code of its own"):
        Planner(compose("model=custom", f"model.path={tmp_path}"))


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nosuch", "architectures": ["NoForCausalLM"]}')
    with pytest.raises(ConfigError, match="cannot be built"):
        Planner(compose("model=custom", f"model.path={tmp_path}"))


def test_a_plan_leaves_no_tensor_with_numbers_behind() -> None:
    planner = Planner(configure("method=lora"))
    assert all(type(p).__name__ == "FakeTensor" for p in planner.skeleton.model.parameters())
    assert not torch.is_autocast_enabled("cpu")


def test_a_cards_seconds_have_a_range_and_those_of_all_steps_follow() -> None:
    planner = Planner(configure("method=full"), card("a100_80"))
    found = planner.plan(4)
    assert found.seconds is not None
    least, most = found.seconds
    assert found.flops / (0.75 * 312e12) < least < most == pytest.approx(1.3**2 * least)
    assert found.run_seconds == (pytest.approx(32 * least), pytest.approx(32 * most))  # the preset's steps
    epochs = Planner(configure("method=full", "train.max_steps=-1"), card("l40s")).plan(4)
    assert epochs.seconds is not None and epochs.run_seconds is None
    assert Planner(configure("method=full"), card("80GiB")).plan(4).seconds is None
