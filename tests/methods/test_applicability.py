"""A method that cannot apply says why; what is asked for explicitly is done."""

from __future__ import annotations

import pytest
import torch
from tiny_models import count, logits, tiny
from torch import nn

from harness.methods.adapter import HoulsbyAdapter
from harness.methods.base import METHODS, Method, trainable
from harness.methods.bitfit import BitFit
from harness.methods.head_only import HeadOnly
from harness.methods.lora import LoRA
from harness.methods.prefix import PrefixTuning
from harness.methods.prompt import PromptInit, PromptTuning
from harness.methods.qlora import QLoRA

NAMES = ["adapter", "bitfit", "full", "head_only", "lora", "lora_prefix", "peft", "prefix", "prompt", "qlora", "rslora"]


def test_every_method_is_registered_under_its_name() -> None:
    assert METHODS.names() == NAMES
    assert [METHODS[name].name for name in NAMES] == NAMES


@pytest.mark.parametrize(
    ("method", "architecture", "reason"),
    [
        (BitFit(), "llama", "no biases to train; method.add_biases=true"),
        (BitFit(), "modernbert", "no biases to train"),
        (PrefixTuning(), "modernbert", "ModernBertForSequenceClassification takes no past keys and values"),
        (PrefixTuning(), "distilbert", "takes no past keys and values"),
        (HeadOnly(), "llama_tied", "tied to its input embedding"),
        (HeadOnly(), "gpt2", "tied to its input embedding"),
        (QLoRA(rank=2), "llama", "quantised none"),
    ],
)
def test_not_applicable_with_the_reason(method: Method, architecture: str, reason: str) -> None:
    assert reason in str(method.unsuitable(tiny(architecture)))


@pytest.mark.parametrize(
    ("method", "architecture"),
    [
        (BitFit(), "bert"),
        (BitFit(), "gpt2"),
        (BitFit(add_biases=True), "llama"),
        (PrefixTuning(), "llama"),
        (PrefixTuning(), "bert"),
        (PrefixTuning(), "gpt2"),
        (HeadOnly(), "llama"),
        (HeadOnly(), "bert"),
        (PromptTuning(), "distilbert"),
        (HoulsbyAdapter(), "llama"),
        (LoRA(rank=2), "gpt2"),
    ],
)
def test_applicable(method: Method, architecture: str) -> None:
    backbone = tiny(architecture)
    assert method.unsuitable(backbone) is None
    assert count(method.attach(backbone)) > 0


def test_added_biases_are_zeros_and_train() -> None:
    backbone = tiny("llama")
    base = logits(backbone.model)
    model = BitFit(add_biases=True).attach(backbone)
    biases = trainable(model)
    assert len(biases) == 2 * 7
    assert not any(bias.any() for bias in biases.values())
    assert backbone.model.get_output_embeddings().bias is None
    assert torch.equal(logits(model), base)


def test_added_biases_keep_those_that_are_there() -> None:
    backbone = tiny("bert")
    before = {name: p.detach().clone() for name, p in backbone.model.named_parameters()}
    after = dict(BitFit(add_biases=True).attach(backbone).named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"qlora", "full"}))
@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
def test_the_new_head_always_trains_and_once(name: str, architecture: str) -> None:
    method = METHODS[name](rank=2) if "lora" in name else METHODS[name]()
    backbone = tiny(architecture)
    if method.unsuitable(backbone) or (name, architecture) == ("peft", "modernbert"):
        pytest.skip("not applicable")
    sizes = sorted(p.numel() for n, p in backbone.model.named_parameters() if backbone.in_head(n))
    model = method.attach(backbone)
    heads = [p.numel() for n, p in trainable(model).items() if ".modules_to_save." in n or backbone.in_head(n)]
    assert sorted(heads) == sizes


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"qlora", "prefix"}))
@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_every_trained_tensor_gets_a_gradient(name: str, architecture: str) -> None:
    method = METHODS[name](rank=2) if "lora" in name else METHODS[name]()
    backbone = tiny(architecture)
    if method.unsuitable(backbone):
        pytest.skip("not applicable")
    assert_gradients(method.attach(backbone))


@pytest.mark.parametrize("architecture", ["llama", "bert", "gpt2"])
def test_every_prefix_gets_a_gradient_that_is_not_zero(architecture: str) -> None:
    model = PrefixTuning(length=3).attach(tiny(architecture))
    assert_gradients(model)
    prefix = next(p for name, p in trainable(model).items() if "prompt_encoder" in name)
    assert prefix.grad is not None
    assert prefix.grad.any()


def assert_gradients(model: nn.Module) -> None:
    model.train()
    model(input_ids=torch.arange(4, 20).reshape(2, 8)).logits.square().sum().backward()
    assert [name for name, parameter in trainable(model).items() if parameter.grad is None] == []


def test_prompt_starts_from_the_words_given(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    words = Tokenizer(WordLevel({"[UNK]": 0, "what": 5, "follows": 9}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    backbone = tiny("llama", folder)
    embeddings = backbone.model.get_input_embeddings().weight.detach().clone()
    model = PromptTuning(length=3, init=PromptInit.text, init_text="what follows").attach(backbone)
    (prompt,) = trainable(model).values()
    assert torch.equal(prompt, embeddings[[5, 9, 5]])  # repeated to the length


def test_prompt_starts_from_tokens_of_the_vocabulary() -> None:
    backbone = tiny("llama")
    embeddings = backbone.model.get_input_embeddings().weight.detach().clone()
    (prompt,) = trainable(PromptTuning(length=6).attach(backbone)).values()
    assert all((row == embeddings).all(1).any() for row in prompt)
