"""What a method does to the logits before training, and that folding it in changes none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import character_tokens, logits, perturb, tiny

from harness.errors import ConfigError
from harness.methods.adapter import Activation, HoulsbyAdapter
from harness.methods.base import Method
from harness.methods.bitfit import BitFit
from harness.methods.full import Full
from harness.methods.head_only import HeadOnly
from harness.methods.lora import Initialisation, LoRA, Targets
from harness.methods.peft import AnyPeftTuner
from harness.methods.prefix import PrefixInit, PrefixTuning
from harness.methods.prompt import PromptTuning
from harness.methods.rslora import RsLoRA

ARCHITECTURES = ["llama", "llama_tied", "gpt2", "bert", "roberta", "modernbert", "distilbert"]
UNCHANGED: dict[str, Method] = {
    "lora": LoRA(rank=3),
    "lora_qv": LoRA(rank=3, targets=Targets.qv, alpha=7.0),
    "gaussian": LoRA(rank=3, init=Initialisation.gaussian),
    "dora": LoRA(rank=3, dora=True),
    "rslora": RsLoRA(rank=3),
    "adapter": HoulsbyAdapter(size=5),
    "adapter_relu": HoulsbyAdapter(size=5, activation=Activation.relu),
    "full": Full(),
    "bitfit": BitFit(add_biases=True),
}
MOVED: dict[str, Method] = {
    "pissa": LoRA(rank=3, init=Initialisation.pissa),
    "olora": LoRA(rank=3, init=Initialisation.olora),
}
MERGEABLE: dict[str, Method] = {
    **{name: method for name, method in UNCHANGED.items() if isinstance(method, LoRA)},
    **MOVED,
    "rslora_pissa": RsLoRA(rank=3, init=Initialisation.pissa),
    "loftq": LoRA(rank=3, init=Initialisation.loftq),
    "ia3": AnyPeftTuner(peft_type="ia3"),
}


def attached(method: Method, architecture: str) -> Any:
    """Attach a method, or skip the test where it says that it does not fit."""
    backbone = tiny(architecture)
    reason = method.unsuitable(backbone)
    if reason:
        pytest.skip(reason)
    return method.attach(backbone)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", UNCHANGED)
def test_start_leaves_logits_exactly_as_they_are(name: str, architecture: str) -> None:
    base = logits(tiny(architecture).model)
    tuned = logits(attached(UNCHANGED[name], architecture))
    # DoRA divides each row by its norm and multiplies by it again.
    torch.testing.assert_close(tuned, base, rtol=0, atol=1e-6 if name == "dora" else 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", MOVED)
def test_moved_weights_leave_logits_to_rounding(name: str, architecture: str) -> None:
    base = logits(tiny(architecture).model)
    torch.testing.assert_close(logits(attached(MOVED[name], architecture)), base, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "llama_tied", "gpt2"])
def test_a_prefix_starts_as_the_text_read_before(architecture: str) -> None:
    """The untouched decoder over text and input gives, at the input's places, what the untrained prefix gives."""
    method, inputs = PrefixTuning(length=7, init_text="abc"), torch.arange(4, 20).reshape(2, 8)
    text = torch.tensor(character_tokens("abc abc")["input_ids"]).expand(2, -1)
    read = tiny(architecture).model(input_ids=torch.cat([text, inputs], 1)).logits[:, 7:]
    started = method.attach(tiny(architecture)).eval()(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits
    torch.testing.assert_close(started, read, rtol=0, atol=1e-5)
    random = PrefixTuning(length=7, init=PrefixInit.random).attach(tiny(architecture))
    assert (random.eval()(input_ids=inputs).logits - read).abs().max() > 1e-3


def test_an_encoder_has_no_text_before_its_own() -> None:
    assert PrefixTuning(init=PrefixInit.text).unsuitable(tiny("bert"))
    with pytest.raises(ConfigError, match=r"method.init=text: a projected prefix starts at random"):
        PrefixTuning(init=PrefixInit.text, projection=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", MERGEABLE)
def test_merged_equals_adapted(name: str, architecture: str) -> None:
    if name == "ia3" and architecture in ("modernbert", "distilbert"):
        pytest.skip("PEFT has no table of IA3's targets for it")
    method = MERGEABLE[name]
    model = attached(method, architecture)
    perturb(model)
    tuned = logits(model)
    assert (tuned - logits(tiny(architecture).model)).abs().max() > 1e-4
    merged = method.merge(model)
    assert type(merged) is type(tiny(architecture).model)
    torch.testing.assert_close(logits(merged), tuned, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [Full(), HeadOnly(), BitFit()], ids=lambda method: method.name)
def test_direct_methods_are_their_own_merge(method: Method) -> None:
    model = method.attach(tiny("bert"))
    perturb(model)
    assert method.merge(model) is model


@pytest.mark.parametrize(
    "method",
    [
        HoulsbyAdapter(),
        PrefixTuning(),
        PromptTuning(),
        BitFit(add_biases=True),
        AnyPeftTuner(peft_type="LILY"),
        AnyPeftTuner(peft_type="P_TUNING"),
    ],
    ids=lambda method: f"{method.name}_{getattr(method, 'peft_type', '')}",
)
def test_what_cannot_be_merged_says_so(method: Method) -> None:
    with pytest.raises(ConfigError, match="merge=True: "):
        method.merge(method.attach(tiny("llama")))
