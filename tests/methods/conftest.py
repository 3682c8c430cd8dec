"""Tiny models with random weights, built from their configuration and a seed: no file is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
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
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_VALUE_HEADS,
            intermediate_size=INNER,
            max_position_embeddings=64,
            **options,
        )
    )


def gpt2() -> GPT2LMHeadModel:
    """Build a GPT-2, whose linear layers are Conv1D with weights of shape (in_features, out_features)."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=64, bos_token_id=1, eos_token_id=1
        )
    )


def modernbert() -> ModernBertForSequenceClassification:
    """Build a ModernBERT, whose layers have no biases."""
    special = {name: 1 for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")}
    return ModernBertForSequenceClassification(ModernBertConfig(**ENCODER, **special, attn_implementation="eager"))


def distilbert() -> DistilBertForSequenceClassification:
    """Build a DistilBERT, whose layers have names of their own."""
    return DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=VOCABULARY, dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=INNER, num_labels=LABELS
        )
    )


MODELS: dict[str, tuple[Callable[[], PreTrainedModel], tuple[str, ...]]] = {
    "llama": (llama, ()),
    "llama_tied": (lambda: llama(tie_word_embeddings=True), ()),
    "gpt2": (gpt2, ()),
    "bert": (lambda: BertForSequenceClassification(BertConfig(**ENCODER)), ("classifier", "bert.pooler")),
    "roberta": (lambda: RobertaForSequenceClassification(RobertaConfig(**ENCODER)), ("classifier",)),
    "modernbert": (modernbert, ("head", "classifier")),
    "distilbert": (distilbert, ("pre_classifier", "classifier")),
}


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    """Move biases and norms off their zeros and ones, so that a test that loses one of them fails."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tiny(architecture: str, folder: Path | None = None) -> Any:
    """Return a backbone of two layers, d = 32; the same weights at every call."""
    build, head = MODELS[architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomised(build())
    decoder = not head

    def in_head(name: str) -> bool:
        return any(name.startswith(f"{module}.") for module in head)

    return SimpleNamespace(
        model=model,
        tokenizer=None,
        kind="decoder" if decoder else "encoder",
        head=head,
        files=SimpleNamespace(folder=folder),
        in_head=in_head,
        peft_task="CAUSAL_LM" if decoder else "SEQ_CLS",
        transposed=architecture == "gpt2",
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


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give each test the same random numbers, whatever ran before it."""
    torch.manual_seed(1234)
