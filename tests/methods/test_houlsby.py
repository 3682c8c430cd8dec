"""Houlsby adapters: their place, their start, and that they behave as one of PEFT's own tuners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftConfig, PeftType, get_peft_model
from safetensors.torch import load_file
from tiny_models import WIDTH, count, logits, open_adapter, perturb, tiny
from torch import nn

from harness.errors import ConfigError
from harness.methods.adapter import Activation, HoulsbyAdapter
from harness.methods.base import trainable
from harness.methods.peft import quiet_peft
from harness.tuners.houlsby import (
    Bottleneck,
    HoulsbyConfig,
    HoulsbyNorm,
    HoulsbyProjection,
    projections,
    register,
)

ARCHITECTURES = ["llama", "gpt2", "bert", "roberta", "modernbert", "distilbert"]


def attached(architecture: str, **options: Any) -> Any:
    model = HoulsbyAdapter(size=5, **options).attach(tiny(architecture))
    perturb(model)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_has_two_bottlenecks(architecture: str) -> None:
    model = HoulsbyAdapter().attach(tiny(architecture))
    names = [name for name, module in model.named_modules() if isinstance(module, HoulsbyProjection)]
    layers = ["0", "1"]
    assert [next(part for part in name.split(".") if part.isdigit()) for name in names] == [
        n for n in layers for _ in (0, 1)
    ]


@pytest.mark.parametrize("activation", Activation)
def test_bottleneck_computes_the_formula_of_the_paper(activation: Activation) -> None:
    bottleneck = Bottleneck(WIDTH, 5, activation.value)
    perturb(bottleneck)
    x = torch.randn(3, WIDTH)
    down, up = bottleneck.down, bottleneck.up
    inner = getattr(F if activation in (Activation.gelu, Activation.relu, Activation.silu) else torch, activation.value)
    wanted = x + inner(x @ down.weight.T + down.bias) @ up.weight.T + up.bias
    torch.testing.assert_close(bottleneck(x), wanted)


def test_bottleneck_stands_before_the_residual_and_the_norm() -> None:
    """BERT's attention output is LayerNorm(adapter(W h + b) + x), computed here by hand."""
    model = attached("bert", train_layer_norms=False)
    output = model.base_model.model.bert.encoder.layer[0].attention.output
    base = tiny("bert").model.bert.encoder.layer[0].attention.output
    hidden, residual = torch.randn(2, 4, WIDTH), torch.randn(2, 4, WIDTH)
    bottleneck = output.dense.houlsby_bottleneck["default"]
    wanted = base.LayerNorm(bottleneck(base.dense(hidden)) + residual)
    torch.testing.assert_close(output(hidden, residual), wanted)


def test_start_is_the_identity_and_learns_from_the_first_step() -> None:
    model = HoulsbyAdapter(size=5).attach(tiny("llama"))
    model.train()
    model(input_ids=torch.arange(4, 20).reshape(2, 8)).logits.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in trainable(model).items()}
    assert all(gradient is not None for gradient in gradients.values())
    moving = [name for name, gradient in gradients.items() if gradient is not None and gradient.abs().max() > 0]
    # W_down gets its first gradient once W_up has left zero, as A does in LoRA.
    assert all(name in moving for name in gradients if ".up." in name or "norm" in name)


def test_down_projection_starts_as_in_the_paper() -> None:
    weight = Bottleneck(512, 256, "gelu").down.weight.detach()
    # A normal distribution cut off at two deviations has 0.88 of its deviation.
    assert weight.abs().max().item() == pytest.approx(0.02, rel=0.01)
    assert weight.std().item() == pytest.approx(0.01 * 0.88, rel=0.02)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_disabled_adapter_is_the_untouched_base(architecture: str) -> None:
    model = attached(architecture)
    tuned, base = logits(model), logits(tiny(architecture).model)
    assert not torch.equal(tuned, base)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), tuned)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_unloading_leaves_the_base_with_the_trained_head(architecture: str) -> None:
    model = attached(architecture)
    wanted = tiny(architecture).model
    trained = {name.partition(".modules_to_save.default") for name in trainable(model)}
    heads = {
        f"{before.removeprefix('base_model.model.')}{after}": before + split + after
        for before, split, after in trained
        if split
    }
    parameters = dict(model.named_parameters())
    wanted.load_state_dict({name: parameters[full] for name, full in heads.items()}, strict=False)
    unloaded = model.unload()
    assert type(unloaded) is type(wanted)
    assert torch.equal(logits(unloaded), logits(wanted))


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_adapters_of_one_base_can_be_swapped(architecture: str, tmp_path: Path) -> None:
    wanted = {}
    for number, name in enumerate(("first", "second")):
        model = HoulsbyAdapter(size=4 + number).attach(tiny(architecture))
        perturb(model, seed=number)
        wanted[name] = logits(model)
        HoulsbyAdapter().save(model, tmp_path / name)
    both: Any = open_adapter(architecture, tmp_path / "first")
    both.load_adapter(str(tmp_path / "second"), "second")
    assert torch.equal(logits(both), wanted["first"])
    both.set_adapter("second")
    assert torch.equal(logits(both), wanted["second"])
    both.set_adapter("default")
    assert torch.equal(logits(both), wanted["first"])
    both.delete_adapter("second")
    assert torch.equal(logits(both), wanted["first"])


def test_a_second_adapter_starts_as_the_base_and_trains_alone() -> None:
    model = attached("llama")
    base = logits(tiny("llama").model)
    model.add_adapter("other", HoulsbyConfig(bottleneck_size=3, task_type="CAUSAL_LM"))
    model.set_adapter("other")
    assert torch.equal(logits(model), base)
    assert {name.split(".other")[0] != name for name in trainable(model)} == {True}
    with pytest.raises(ValueError, match="one Houlsby adapter"):
        model.base_model.set_adapter(["default", "other"])
        logits(model)


def test_saved_file_holds_the_trained_tensors_without_the_adapters_name(tmp_path: Path) -> None:
    model = attached("bert")
    HoulsbyAdapter().save(model, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == count(model)
    assert not any("default" in name for name in stored)
    config = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(config, HoulsbyConfig)
    assert config.bottleneck_size == 5


@pytest.mark.parametrize("architecture", ["llama", "modernbert", "bert"])
def test_half_precision_base_keeps_its_dtype_and_trains_in_float32(architecture: str) -> None:
    backbone = tiny(architecture)
    backbone.model.to(torch.bfloat16)
    base = logits(backbone.model)
    model = HoulsbyAdapter(size=5).attach(backbone)
    bodies = {p.dtype for name, p in trainable(model).items() if "modules_to_save" not in name}
    assert bodies == {torch.float32}
    # Norms computed in float32 round differently from norms in bfloat16, 8 bits of it.
    torch.testing.assert_close(logits(model), base, rtol=0.03, atol=0.03)
    assert model(input_ids=torch.arange(4, 20).reshape(2, 8)).logits.dtype is torch.bfloat16


def test_norms_of_the_new_head_are_left_to_the_head() -> None:
    model = HoulsbyAdapter().attach(tiny("modernbert"))
    norms = [name for name, module in model.named_modules() if isinstance(module, HoulsbyNorm)]
    assert norms
    assert not any(".head." in name for name in norms)


def test_unknown_architecture_is_not_applicable_until_targets_are_named() -> None:
    backbone = tiny("llama")
    for layer in backbone.model.model.layers:
        layer.attention = layer.__dict__["_modules"].pop("self_attn")
    assert projections(backbone.model) == []
    assert "set method.target_modules" in str(HoulsbyAdapter().unsuitable(backbone))
    method = HoulsbyAdapter(target_modules=["o_proj", "down_proj"])
    assert method.unsuitable(backbone) is None
    names = [n for n, m in method.attach(backbone).named_modules() if isinstance(m, HoulsbyProjection)]
    assert len(names) == 4


def test_targets_that_match_nothing_are_refused() -> None:
    method = HoulsbyAdapter(target_modules=["nothing"], train_layer_norms=False)
    with pytest.raises(ConfigError, match=r"method.target_modules=\['nothing'\]"):
        method.attach(tiny("llama"))


def test_tuner_works_by_itself_in_peft() -> None:
    """Without the harness's method: the configuration alone finds layers and norms."""
    with quiet_peft():
        model = get_peft_model(tiny("llama").model, HoulsbyConfig(bottleneck_size=5, task_type="CAUSAL_LM"))
    assert count(model) == count(HoulsbyAdapter(size=5).attach(tiny("llama")))


def test_registering_twice_changes_nothing() -> None:
    members = list(PeftType)
    register()
    assert list(PeftType) == members
    assert PeftType("HOULSBY") is PeftType["HOULSBY"] is PeftType.HOULSBY  # type: ignore[attr-defined]
    assert members.count("HOULSBY") == 1  # type: ignore[arg-type]


def test_layers_that_are_not_linear_are_refused() -> None:
    with pytest.raises(ValueError, match="Embedding is not a linear layer"), quiet_peft():
        get_peft_model(tiny("llama").model, HoulsbyConfig(target_modules=["embed_tokens"]))


def test_bottleneck_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="bottleneck_size=0"):
        HoulsbyConfig(bottleneck_size=0)


def test_no_bottleneck_inside_a_bottleneck() -> None:
    model = HoulsbyAdapter(target_modules=["down_proj"]).attach(tiny("llama"))
    inner = [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "houlsby" in n]
    assert len(inner) == 4
