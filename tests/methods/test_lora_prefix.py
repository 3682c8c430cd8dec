"""LoRA and a prefix in one model: what trains, at which rates, saved, loaded, folded in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_models import count, logits, perturb, tiny

from harness.errors import ConfigError
from harness.methods.base import trainable
from harness.methods.lora import Initialisation, LoRA
from harness.methods.lora_prefix import LoRAPrefix
from harness.methods.peft import quiet_peft
from harness.methods.prefix import PrefixInit, PrefixTuning

ARCHITECTURES = ["llama", "gpt2", "bert", "roberta"]
METHOD = LoRAPrefix(rank=3, length=4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_trains_what_both_train_and_one_head(architecture: str) -> None:
    lora, prefix = LoRA(rank=3).attach(tiny(architecture)), PrefixTuning(length=4).attach(tiny(architecture))
    backbone = tiny(architecture)
    head = sum(p.numel() for name, p in backbone.model.named_parameters() if backbone.in_head(name))
    assert count(METHOD.attach(backbone)) == count(lora) + count(prefix) - head


def test_it_starts_as_the_prefix_alone() -> None:
    started = logits(METHOD.attach(tiny("llama")))
    torch.testing.assert_close(started, logits(PrefixTuning(length=4).attach(tiny("llama"))), rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_parts_get_gradients_that_are_not_zero(architecture: str) -> None:
    model = METHOD.attach(tiny(architecture))
    perturb(model)
    model.train()(input_ids=torch.arange(4, 20).reshape(2, 8)).logits.square().sum().backward()
    for part in ("lora_A", "lora_B", "prompt_encoder"):
        found = [parameter.grad for name, parameter in trainable(model).items() if part in name]
        assert found and all(grad is not None and grad.any() for grad in found), part


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exported_parts_open_one_after_the_other(architecture: str, tmp_path: Path) -> None:
    model = METHOD.attach(tiny(architecture))
    perturb(model)
    METHOD.export_adapter(model, tmp_path)
    assert not list(tmp_path.glob("*.json"))  # half of it cannot be opened for the whole
    torch.manual_seed(99)
    opened = tiny(architecture).model
    for part in METHOD.adapters:
        with quiet_peft():
            opened = PeftModel.from_pretrained(opened, str(tmp_path / part))
        inner = opened if part == METHOD.adapters[-1] else opened.get_base_model()
        opened = inner
    torch.testing.assert_close(logits(opened), logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merging_folds_lora_and_leaves_the_prefix(architecture: str, tmp_path: Path) -> None:
    """The merged weights are those of LoRA alone with the same A and B; the logits are the tuned model's."""
    model = METHOD.attach(tiny(architecture))
    perturb(model)
    tuned = logits(model)
    METHOD.save(model, tmp_path)
    merged = METHOD.merge(model)
    torch.testing.assert_close(logits(merged), tuned, rtol=1e-4, atol=1e-5)
    base = merged.get_base_model()  # type: ignore[operator]
    assert type(base) is type(tiny(architecture).model)
    assert not [name for name, _ in base.named_parameters() if "lora" in name]
    assert count(merged) == count(PrefixTuning(length=4).attach(tiny(architecture)))  # with a head, where there is one
    with quiet_peft():
        alone = PeftModel.from_pretrained(tiny(architecture).model, str(tmp_path)).merge_and_unload()
    found, wanted = dict(base.named_parameters()), dict(alone.named_parameters())
    assert all(torch.allclose(found[name], wanted[name]) for name in wanted if name in found)


@pytest.mark.parametrize(("plus", "wanted"), [(None, {1.0, 10.0}), (4.0, {1.0, 4.0, 10.0})])
def test_the_prefix_has_a_rate_of_its_own(plus: float | None, wanted: set[float]) -> None:
    method = LoRAPrefix(rank=3, length=4, lora_plus_ratio=plus)
    model = method.attach(tiny("bert"))
    optimizer = method.create_optimizer(model, torch.optim.AdamW, {"lr": 1e-3})
    rates = {round(group["lr"] / 1e-3, 6) for group in optimizer.param_groups}
    assert rates == wanted
    names = {id(parameter): name for name, parameter in trainable(model).items()}
    held = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(names.values())  # each once, the head with LoRA's A
    (fast,) = [g["params"] for g in optimizer.param_groups if round(g["lr"] / 1e-3, 6) == 10]
    assert {names[id(parameter)].split(".")[0] for parameter in fast} == {"prompt_encoder"}


def test_a_saved_folder_holds_lora_where_the_analysis_reads_it(tmp_path: Path) -> None:
    METHOD.save(METHOD.attach(tiny("llama")), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert json.loads((tmp_path / "prefix/adapter_config.json").read_text())["peft_type"] == "PREFIX_TUNING"


def test_settings_that_cannot_be_combined_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"method.init=pissa: default or gaussian: "):
        LoRAPrefix(rank=3, init=Initialisation.pissa)
    with pytest.raises(ConfigError, match=r"method.length=0: must be at least 1"):
        LoRAPrefix(rank=3, length=0)
    assert "takes no past" in str(METHOD.unsuitable(tiny("distilbert")))
    assert "an encoder has no keys" in str(LoRAPrefix(rank=3, prefix_init=PrefixInit.text).unsuitable(tiny("bert")))
