"""QLoRA on a CPU: what is quantised, that merging changes no logits, that evaluating changes no weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import PeftModel
from tiny_models import LAYERS, count, logits, perturb, tiny
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from harness.errors import ConfigError
from harness.methods.lora import Initialisation, LoRA
from harness.methods.peft import quiet_peft
from harness.methods.qlora import QLoRA
from harness.models import Backbone

# 8-bit layers round their inputs too, which the merged model does not.
TOLERANCE = {4: 1e-5, 8: 0.03}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny("llama_wide").model.save_pretrained(path)
    return path


def quantised(method: QLoRA, folder: Path, architecture: str = "llama_wide") -> Backbone:
    backbone = tiny(architecture)
    auto: Any = AutoModelForCausalLM if backbone.kind == "decoder" else AutoModelForSequenceClassification
    quantization = method.quantization()
    quantization.llm_int8_skip_modules = list(backbone.head) or None
    options = {} if backbone.kind == "decoder" else {"num_labels": 3}
    model = auto.from_pretrained(folder, quantization_config=quantization, device_map={"": "cpu"}, **options)
    return dataclasses.replace(backbone, model=model.eval())


def test_four_bits_are_nf4_with_double_quantisation() -> None:
    config = QLoRA(rank=2).quantization()
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (
        True,
        "nf4",
        True,
    )
    assert config.bnb_4bit_compute_dtype is (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    assert not QLoRA(rank=2, double_quantisation=False).quantization().bnb_4bit_use_double_quant
    assert QLoRA(rank=2, compute_dtype="float16").quantization().bnb_4bit_compute_dtype is torch.float16


def test_eight_bits() -> None:
    assert QLoRA(rank=2, bits=8).quantization().load_in_8bit


def test_a_weight_takes_4_127_bits(folder: Path) -> None:
    """4 bits a weight, 8 a scale of 64 weights, 32 a scale of 256 scales: 4 + 8/64 + 32/(64 · 256)."""
    weight = next(m for m in quantised(QLoRA(rank=2), folder).model.modules() if isinstance(m, Linear4bit)).weight
    state = weight.quant_state
    scales = state.absmax.numel() * state.absmax.element_size() * 8
    # A matrix of 64 x 64 has 64 scales, so its one second-level block is not full.
    bits = (weight.numel() * 8 + scales) / (64 * 64) + 32 / (64 * 256)
    assert bits == pytest.approx(4.127, abs=5e-4)


@pytest.mark.parametrize(("bits", "layer"), [(4, Linear4bit), (8, Linear8bitLt)])
def test_linear_layers_of_the_blocks_are_quantised_and_get_an_update(
    bits: int, layer: type[nn.Module], folder: Path
) -> None:
    method = QLoRA(rank=3, bits=bits)
    backbone = quantised(method, folder)
    assert method.unsuitable(backbone) is None
    assert sum(isinstance(module, layer) for module in backbone.model.modules()) == LAYERS * 7
    base = logits(tiny("llama_wide").model)
    model = method.attach(backbone)
    assert count(model) == count(LoRA(rank=3).attach(tiny("llama_wide")))
    start = logits(model)
    assert 0 < (start - base).abs().max() < 0.2  # what rounding the weights costs
    with model.disable_adapter():  # type: ignore[operator]
        assert torch.equal(logits(model), start)


@pytest.mark.parametrize(
    "method", [QLoRA(rank=3), QLoRA(rank=3, dora=True), QLoRA(rank=3, bits=8)], ids=["4", "dora", "8"]
)
def test_merged_equals_adapted(method: QLoRA, folder: Path) -> None:
    model = method.attach(quantised(method, folder))
    perturb(model)
    tuned = logits(model)
    merged = method.merge(model)
    assert not any(isinstance(module, (Linear4bit, Linear8bitLt)) for module in merged.modules())
    torch.testing.assert_close(logits(merged), tuned, rtol=0, atol=TOLERANCE[method.bits])


def test_merged_model_is_a_plain_folder(folder: Path, tmp_path: Path) -> None:
    method = QLoRA(rank=3)
    model = method.attach(quantised(method, folder))
    perturb(model)
    tuned = logits(model)
    method.merge(model).save_pretrained(tmp_path)  # type: ignore[operator]
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not hasattr(opened.config, "quantization_config")
    torch.testing.assert_close(logits(opened), tuned, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_load_restores_the_logits_and_the_folder_opens_in_peft(bits: int, folder: Path, tmp_path: Path) -> None:
    method = QLoRA(rank=3, bits=bits)
    model = method.attach(quantised(method, folder))
    perturb(model)
    tuned = logits(model)
    method.save(model, tmp_path)
    fresh = method.attach(quantised(method, folder))
    method.load(fresh, tmp_path)
    assert torch.equal(logits(fresh), tuned)
    with quiet_peft():
        opened = PeftModel.from_pretrained(quantised(method, folder).model, str(tmp_path))
    # bitsandbytes' fast layout on some CPUs rounds to bfloat16.
    torch.testing.assert_close(logits(opened), tuned, rtol=0, atol=0.05)


def test_evaluating_changes_neither_the_base_nor_the_gradients(folder: Path) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes repacks weights to evaluate, and no gradient passes them then."""
    method = QLoRA(rank=3)

    def perturbed() -> nn.Module:
        torch.manual_seed(5)
        model = method.attach(quantised(method, folder))
        perturb(model)
        return model

    fresh, evaluated = perturbed(), perturbed()
    first = logits(evaluated)
    assert torch.equal(gradients(evaluated), gradients(fresh))
    assert torch.equal(logits(evaluated), first)


def gradients(model: nn.Module) -> torch.Tensor:
    model.train()
    model(input_ids=torch.arange(4, 20).reshape(2, 8)).logits.square().sum().backward()
    found = [p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert len(found) == LAYERS * 7 * 2
    model.zero_grad()
    return torch.cat(found)


def test_encoder_keeps_its_new_head_out_of_quantisation(tmp_path: Path) -> None:
    method = QLoRA(rank=3)
    tiny("bert").model.save_pretrained(tmp_path)
    model = method.attach(quantised(method, tmp_path, "bert"))
    perturb(model)
    tuned = logits(model)
    merged = method.merge(model)
    assert all(p.dtype is torch.float32 for p in merged.parameters())
    torch.testing.assert_close(logits(merged), tuned, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": 3}, "method.bits=3: must be 4 or 8"),
        ({"compute_dtype": "float64"}, "method.compute_dtype=float64"),
        ({"init": Initialisation.pissa}, "method.init=pissa: default or gaussian"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        QLoRA(rank=2, **options)
