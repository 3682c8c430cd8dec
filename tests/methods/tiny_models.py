"""Tiny models with random weights, built from their configuration and a seed: no file is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import harness.methods
from harness.methods.base import METHODS
from harness.methods.peft import quiet_peft
from harness.models import Backbone, size
from harness.storage.assets import Files

METHODS.discover(harness.methods)

LAYERS, WIDTH, INNER, VOCABULARY, LABELS = 2, 32, 48, 64, 3
HEADS, KEY_VALUE_HEADS = 4, 2

ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": 64,
    "num_labels": LABELS,
    "pad_token_id": 0,
}


def llama(**options: Any) -> LlamaForCausalLM:
    """Build a Llama with grouped-query attention: 4 query heads, 2 key and value heads of 8."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_VALUE_HEADS,
            max_position_embeddings=64,
            **{"hidden_size": WIDTH, "intermediate_size": INNER, **options},
        )
    )


def gpt2() -> GPT2LMHeadModel:
    """Build a GPT-2, whose linear layers are Conv1D with weights of shape (in_features, out_features)."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=1,
        )
    )


def modernbert() -> ModernBertForSequenceClassification:
    """Build a ModernBERT, whose layers have no biases."""
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
    return ModernBertForSequenceClassification(ModernBertConfig(**ENCODER, **special, attn_implementation="eager"))


def distilbert() -> DistilBertForSequenceClassification:
    """Build a DistilBERT, whose layers have names of their own."""
    return DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=WIDTH,
            n_layers=LAYERS,
            n_heads=HEADS,
            hidden_dim=INNER,
            num_labels=LABELS,
        )
    )


# With each model the names of the modules that a checkpoint of the bare encoder lacks.
MODELS: dict[str, tuple[Callable[[], PreTrainedModel], tuple[str, ...]]] = {
    "llama": (llama, ()),
    "llama_tied": (lambda: llama(tie_word_embeddings=True), ()),
    "llama_wide": (lambda: llama(hidden_size=64, intermediate_size=128), ()),
    "gpt2": (gpt2, ()),
    "bert": (
        lambda: BertForSequenceClassification(BertConfig(**ENCODER)),
        ("bert.pooler.dense", "classifier"),
    ),
    "roberta": (
        lambda: RobertaForSequenceClassification(RobertaConfig(**ENCODER)),
        ("classifier.dense", "classifier.out_proj"),
    ),
    "modernbert": (modernbert, ("classifier", "head.dense", "head.norm")),
    "distilbert": (distilbert, ("pre_classifier", "classifier")),
}


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    """Move biases and norms off their zeros and ones, so that a test that loses one of them fails."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def character_tokens(text: str, **options: Any) -> dict[str, Any]:
    """Stand in for a tokenizer: a token a character, as many as asked for."""
    tokens = [ord(character) % VOCABULARY for character in text][: options.get("max_length")]
    return {"input_ids": torch.tensor([tokens]) if options.get("return_tensors") else tokens}


def tiny(architecture: str, folder: Path | None = None) -> Backbone:
    """Return a backbone of two layers, d = 32; the same weights at every call."""
    build, head = MODELS[architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomised(build())
    kind = "encoder" if head else "decoder"
    return Backbone(
        model,
        cast(Any, character_tokens),
        kind,
        head,
        Files(folder or Path("none"), {}, "tiny"),
        sum(map(size, model.parameters())),
    )


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    """Return a model's logits on two fixed inputs of unequal length."""
    model.eval()
    tokens = torch.arange(4, 20).reshape(2, 8)
    mask = torch.ones_like(tokens)
    mask[1, 6:] = 0
    output: torch.Tensor = model(input_ids=tokens, attention_mask=mask).logits
    return output.float().clone()


@torch.no_grad()
def perturb(model: nn.Module, seed: int = 1) -> None:
    """Add noise to everything that trains, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def count(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def open_adapter(architecture: str, folder: Path) -> nn.Module:
    """Open an adapter folder on an untouched base as any user of PEFT would."""
    with quiet_peft():
        return PeftModel.from_pretrained(tiny(architecture).model, str(folder))
