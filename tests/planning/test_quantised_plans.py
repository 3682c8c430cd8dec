"""Layers of 4 and 8 bits without values against those that bitsandbytes makes of real weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from harness.planning.plan import fake_mode
from harness.planning.quantised import quantise, state_tensors
from harness.planning.skeleton import make_fake

CONFIG = LlamaConfig(vocab_size=128, hidden_size=96, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4)
EIGHT: dict[str, Any] = {"load_in_8bit": True}
FOUR: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def nbytes(model: torch.nn.Module) -> int:
    tensors = {id(t.untyped_storage()): t for t in [*model.parameters(), *model.buffers(), *state_tensors(model)]}
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())


@pytest.mark.parametrize(
    "settings",
    [FOUR | {"bnb_4bit_use_double_quant": True}, FOUR | {"bnb_4bit_use_double_quant": False}, EIGHT],
    ids=["nf4 double", "nf4", "int8"],
)
def test_bytes_are_those_of_the_real_layers(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(CONFIG).save_pretrained(folder)
    wanted = BitsAndBytesConfig(**settings)
    real = LlamaForCausalLM.from_pretrained(folder, quantization_config=wanted, device_map={"": "cpu"})
    with torch.device("meta"):
        planned = LlamaForCausalLM(CONFIG)
    quantise(planned, wanted, ())
    with fake_mode():
        make_fake(planned)
        found = nbytes(planned)
    assert found == nbytes(real)


def test_double_quantisation_takes_4_127_bits_a_weight() -> None:
    """QLoRA (arXiv 2305.14314), section 3: 32/64 = 0.5 bits for scales become 8/64 + 32/(64·256) = 0.127."""
    config = LlamaConfig(
        vocab_size=8, hidden_size=1024, intermediate_size=4096, num_hidden_layers=2, num_attention_heads=8
    )
    sizes = {}
    for double in (True, False):
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        quantise(model, BitsAndBytesConfig(**FOUR, bnb_4bit_use_double_quant=double), ())
        layer = model.model.layers[0].mlp.up_proj.weight
        tensors = [layer, *state_tensors(model.model.layers[0].mlp.up_proj)]
        sizes[double] = 8 * sum(t.numel() * t.element_size() for t in tensors) / layer.quant_state.shape.numel()
    assert sizes[True] == pytest.approx(4.127, abs=0.004)
    assert sizes[False] == pytest.approx(4.5, abs=0.001)
