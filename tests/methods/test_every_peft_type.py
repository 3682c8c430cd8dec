"""Every tuner of the installed PEFT attaches and trains, or says in one line why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftType
from tiny_models import count, logits, perturb, tiny

from harness.errors import ConfigError, NotApplicable
from harness.library_names import enum_values
from harness.methods.base import trainable
from harness.methods.peft import AnyPeftTuner

TYPES = enum_values("peft", "utils/peft_types", "PeftType")
# PEFT's defaults are made for models wider than 32.
SMALL: dict[str, dict[str, Any]] = {
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 100},
    "MISS": {"r": 8},
    "PSOFT": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [4, 5]},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 100},
}
NOT_APPLICABLE = {
    "llama": {"ADALORA", "MULTITASK_PROMPT_TUNING", "POLY", "SHADOW", "XLORA"},
    "bert": {"ADALORA", "ADAPTION_PROMPT", "MULTITASK_PROMPT_TUNING", "POLY", "SHADOW", "XLORA"},
}
# Prompts, prefixes and what depends on the input: no weights of the base compute the same. LILY only seems to merge.
UNMERGED = {"ADAPTION_PROMPT", "CARTRIDGE", "CPT", "LILY", "P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"}
# What PEFT says of its own defaults and of extensions that a CPU lacks.
LIBRARY_WARNINGS = [
    "Detected that the base layer has no bias term",
    "Failed to load the CUDA extension",
    "Invalid `oft_block_size`",
    "Setting boft_n_butterfly_factor to 1",
    "Sparse invariant checks are implicitly disabled",
    "Unsupported layer type",
]
quiet = [pytest.mark.filterwarnings(f"ignore:{message}:UserWarning") for message in LIBRARY_WARNINGS]


def attach(name: str, architecture: str) -> tuple[AnyPeftTuner, Any]:
    """Do what a run does: check the options, ask whether the tuner fits, attach it."""
    method = AnyPeftTuner(peft_type=name, options=SMALL.get(name, {}))
    method.preflight()
    backbone = tiny(architecture)
    reason = method.unsuitable(backbone)
    if reason:
        raise NotApplicable(reason)
    return method, method.attach(backbone)


def marked(function: Any) -> Any:
    for mark in quiet:
        function = mark(function)
    return function


@marked
@pytest.mark.parametrize("architecture", ["llama", "bert"])
@pytest.mark.parametrize("name", TYPES)
def test_every_tuner_trains_saves_and_loads(name: str, architecture: str, tmp_path: Path) -> None:
    if name in NOT_APPLICABLE[architecture]:
        with pytest.raises(NotApplicable, match=name):
            attach(name, architecture)
        return
    if (name, architecture) == ("CPT", "bert"):
        with pytest.raises(ConfigError, match="CAUSAL_LM"):
            attach(name, architecture)
        return
    method, model = attach(name, architecture)
    head = sum(p.numel() for n, p in trainable(model).items() if ".modules_to_save." in n)
    assert count(model) > head
    model(input_ids=torch.arange(4, 20).reshape(2, 8)).logits.square().sum().backward()
    assert [n for n, p in trainable(model).items() if p.grad is None] == []
    perturb(model)
    tuned = logits(model)
    method.save(model, tmp_path)
    _, fresh = attach(name, architecture)
    method.load(fresh, tmp_path)
    # CPT cuts its prompt to a length again at each use.
    torch.testing.assert_close(logits(fresh), tuned, rtol=0, atol=1e-5 if name == "CPT" else 0)
    if name in UNMERGED or (name, architecture) == ("BEFT", "llama"):  # a bias needs a bias to be added to
        with pytest.raises(ConfigError, match=f"merge=True: {name} c[^\\n]*$"):
            method.merge(fresh)
    else:
        torch.testing.assert_close(logits(method.merge(fresh)), tuned, rtol=0, atol=1e-4)


def test_a_bug_while_merging_is_a_failure_and_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("NaNs detected in the merged weights")

    method, model = attach("LOHA", "llama")
    monkeypatch.setattr(type(model.base_model), "merge_and_unload", broken)
    with pytest.raises(ValueError, match="NaNs"):
        method.merge(model)


@marked
@pytest.mark.parametrize("architecture", ["gpt2", "modernbert"])
@pytest.mark.parametrize("name", TYPES)
def test_every_tuner_fits_or_says_why_not(name: str, architecture: str) -> None:
    try:
        _, model = attach(name, architecture)
    except (NotApplicable, ConfigError) as error:
        assert "\n" not in str(error)
        assert name in str(error) or "takes no past keys" in str(error) or name == "CPT"
    else:
        assert count(model) > 0


@pytest.mark.parametrize("error", [AttributeError, TypeError, AssertionError, KeyError, ValueError])
def test_a_bug_inside_peft_is_a_failure_and_no_result(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error("'NoneType' object has no attribute 'shape'")

    monkeypatch.setattr("peft.get_peft_model", broken)
    with pytest.raises(error):
        AnyPeftTuner(peft_type="LOHA").attach(tiny("llama"))


def test_types_are_those_of_the_installed_peft() -> None:
    assert set(TYPES) == {member.value for member in PeftType} - {"HOULSBY"}


def test_misspelt_type_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"method.peft_type=LOHAA: no such tuner; did you mean LOHA\?"):
        AnyPeftTuner(peft_type="LOHAA")


def test_type_may_be_written_small() -> None:
    assert AnyPeftTuner(peft_type="vera").peft_type == "VERA"


def test_misspelt_option_names_the_nearest() -> None:
    method = AnyPeftTuner(peft_type="LOHA", options={"rnk_dropout": 0.1})
    with pytest.raises(
        ConfigError,
        match=r"method.options.rnk_dropout=0.1: LOHA has no such option; did you mean rank_dropout\?",
    ):
        method.preflight()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("LORA", {"target_modules": ["nothing"]}, r"method.target_modules=\['nothing'\]: names no layer"),
        ("LORA", {"r": 0}, "method.options.r=0: must be at least 1"),
        (
            "ADAPTION_PROMPT",
            {},
            "ADAPTION_PROMPT needs method.options.adapter_len, method.options.adapter_layers",
        ),
        ("TRAINABLE_TOKENS", {}, "TRAINABLE_TOKENS has nothing to train"),
    ],
)
def test_options_that_do_not_serve_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, NotApplicable), match=said):
        method = AnyPeftTuner(peft_type=name, options=options)
        method.preflight()
        method.attach(tiny("llama"))


def test_rank_is_shown_where_there_is_one() -> None:
    assert AnyPeftTuner(peft_type="LOHA", options={"r": 4}).rank_used == 4
    assert AnyPeftTuner().rank_used is None


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
def test_norm_tuning_finds_the_norms_of_any_model() -> None:
    model = AnyPeftTuner(peft_type="LN_TUNING").attach(tiny("gpt2"))
    assert count(model) == 5 * 2 * 32
