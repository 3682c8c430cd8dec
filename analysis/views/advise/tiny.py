"""Tiny models with random weights on which capabilities are tried, in full precision or in 4 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from harness.methods.base import Method
from harness.methods.qlora import keep_unpacked
from harness.models import Backbone, size
from harness.storage.assets import Files

VOCABULARY, HEADS, LABELS, POSITIONS = 64, 4, 3, 128
SEED = 20_261_129
HEAD = ("bert.pooler.dense", "classifier")
"""What starts anew beside a checkpoint of the bare encoder."""


class Kind(StrEnum):
    """The models that are tried: one without biases and two with them."""

    decoder = "decoder"
    """Of the Llama family, whose linear layers have no biases."""
    biased = "decoder with biases"
    encoder = "encoder"
    """BERT, whose layers have biases, with a new head."""


class FourBit(StrEnum):
    """How the base is loaded."""

    never = "never"
    own = "as the method says"
    always = "always"


def nf4() -> BitsAndBytesConfig:
    """Return NF4 with double quantisation, computed in float32 as everything here."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )


def tiny(kind: Kind, width: int, quantization: Any = None) -> Backbone:
    """Return a backbone of one layer, `width` wide, with the same weights at every call.

    All its matrices but the embedding are square, so that a LoRA of rank `width` can be any change of them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = _moved(_build(kind, width))
        if quantization is not None:
            model = _quantised(model, kind, quantization)
    head = HEAD if kind is Kind.encoder else ()
    files = Files(Path("none"), {}, "tiny")
    words: Any = _words
    peft_kind = "encoder" if kind is Kind.encoder else "decoder"
    return Backbone(model, words, peft_kind, head, files, sum(map(size, model.parameters())))


def for_method(method: Method, kind: Kind, width: int, four_bit: FourBit = FourBit.own) -> Backbone:
    """Return the backbone that a method is attached to."""
    loaded = {FourBit.never: None, FourBit.own: method.quantization(), FourBit.always: nf4()}[four_bit]
    return tiny(kind, width, loaded)


def _build(kind: Kind, width: int) -> PreTrainedModel:
    sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": HEADS}
    common: dict[str, Any] = sizes | {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
    if kind is Kind.encoder:
        return BertForSequenceClassification(BertConfig(**common, num_labels=LABELS, pad_token_id=0))
    biases = kind is Kind.biased
    return LlamaForCausalLM(LlamaConfig(**common, attention_bias=biases, mlp_bias=biases))


def _moved(model: PreTrainedModel) -> PreTrainedModel:
    """Move biases and norms off their zeros and ones, so that losing one of them shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _quantised(model: PreTrainedModel, kind: Kind, quantization: Any) -> PreTrainedModel:
    """Return a model read back in 4 or 8 bits, its head left whole."""
    if kind is Kind.encoder:
        quantization.llm_int8_skip_modules = list(HEAD)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        placed: dict[str, Any] = {"quantization_config": quantization, "device_map": {"": "cpu"}}
        found = type(model).from_pretrained(folder, local_files_only=True, dtype=torch.float32, **placed)
    keep_unpacked(found)
    return cast("PreTrainedModel", found.eval())


def _words(text: str, **options: Any) -> dict[str, Any]:
    """Stand in for a tokenizer: a token a character, as many as asked for."""
    tokens = [ord(character) % VOCABULARY for character in text][: options.get("max_length")]
    return {"input_ids": torch.tensor([tokens]) if options.get("return_tensors") else tokens}


def inputs() -> dict[str, torch.Tensor]:
    """Return two rows of tokens of unequal length."""
    tokens = torch.arange(4, 20).reshape(2, 8)
    mask = torch.ones_like(tokens)
    mask[1, 6:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    """Return a model's logits on the fixed inputs, where no token is padding; shape ``(values,)``."""
    found = model.eval()(**inputs()).logits.float()
    kept = found[:, -8:][inputs()["attention_mask"].bool()] if found.dim() == 3 else found
    return cast("torch.Tensor", kept.flatten().clone())


@torch.no_grad()
def perturb(model: nn.Module, seed: int) -> None:
    """Add noise to everything that trains, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def in_4_bits(model: nn.Module) -> bool:
    """Return whether some layer of the model is in 4 bits."""
    return any(type(module).__name__ == "Linear4bit" for module in model.modules())


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder that is deleted afterwards."""
    with TemporaryDirectory() as folder:
        yield Path(folder)
