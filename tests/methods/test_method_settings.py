"""Settings are checked where they enter, and every method is a structured configuration."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, ValidationError
from tiny_models import METHODS

from harness.errors import ConfigError
from harness.methods.adapter import HoulsbyAdapter
from harness.methods.full import Full
from harness.methods.lora import Initialisation, LoRA, Targets
from harness.methods.prefix import PrefixTuning
from harness.methods.prompt import PromptInit, PromptTuning
from harness.methods.qlora import QLoRA
from harness.methods.rslora import RsLoRA

MISTAKES: list[tuple[Any, str]] = [
    (lambda: LoRA(rank=0), "rank=0: must be at least 1"),
    (lambda: LoRA(rank=-1), "rank=-1: must be at least 1"),
    (lambda: RsLoRA(rank=0), "rank=0: must be at least 1"),
    (lambda: LoRA(rank=1, dropout=1.0), "method.dropout=1.0: must be at least 0 and below 1"),
    (lambda: LoRA(rank=1, dropout=-0.1), "method.dropout=-0.1: must be at least 0 and below 1"),
    (lambda: LoRA(rank=1, alpha=0.0), "method.alpha=0.0: must be a number above 0"),
    (lambda: LoRA(rank=1, alpha=float("nan")), "method.alpha=nan: must be a number above 0"),
    (lambda: LoRA(rank=1, lora_plus_ratio=-2.0), "method.lora_plus_ratio=-2.0: must be a number above 0"),
    (lambda: LoRA(rank=1, learning_rate=0.0), "method.learning_rate=0.0: must be a number above 0"),
    (
        lambda: LoRA(rank=1, dora=True, init=Initialisation.loftq),
        "method.dora=True: cannot be combined with method.init=loftq",
    ),
    (lambda: Full(learning_rate=-1.0), "method.learning_rate=-1.0: must be a number above 0"),
    (lambda: PrefixTuning(length=0), "method.length=0: must be at least 1"),
    (lambda: PrefixTuning(projection_size=0), "method.projection_size=0: must be at least 1"),
    (lambda: PromptTuning(length=0), "method.length=0: must be at least 1"),
    (
        lambda: PromptTuning(init=PromptInit.text),
        "method.init_text=None: method.init=text needs the text to start from",
    ),
    (lambda: HoulsbyAdapter(size=0), "method.size=0: must be at least 1"),
]


@pytest.mark.parametrize(("build", "said"), MISTAKES, ids=[said.partition(":")[0] for _, said in MISTAKES])
def test_a_setting_out_of_range_is_named_with_its_value(build: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert str(caught.value) == said


RANKED = ("lora", "lora_prefix", "qlora", "rslora")


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_is_a_structured_configuration(name: str) -> None:
    whole = OmegaConf.create({"rank": 8, "method": OmegaConf.structured(METHODS[name])})
    method = OmegaConf.to_object(whole.method)
    assert isinstance(method, METHODS[name])
    assert method.rank_used == (8 if name in RANKED else None)


def test_the_top_level_rank_is_read_and_can_be_overridden() -> None:
    whole = OmegaConf.create({"rank": 8, "method": OmegaConf.structured(LoRA)})
    whole.method.rank = 3
    assert OmegaConf.to_object(whole.method).rank == 3


def test_enums_and_options_are_read_by_name() -> None:
    config = OmegaConf.structured(LoRA)
    config.rank, config.targets, config.init, config.alpha = 4, "qv", "pissa", 3
    method = OmegaConf.to_object(config)
    assert (method.targets, method.init, method.alpha) == (Targets.qv, Initialisation.pissa, 3.0)


@pytest.mark.parametrize(("key", "value"), [("init", "pisa"), ("rank", 1.5), ("dora", "maybe"), ("alpha", "two")])
def test_values_of_a_wrong_type_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        OmegaConf.structured(LoRA)[key] = value


def test_unknown_settings_are_refused() -> None:
    with pytest.raises((ConfigKeyError, AttributeError)):
        OmegaConf.structured(LoRA).rnak = 3


def test_rslora_keeps_alpha_whatever_the_rank() -> None:
    assert {RsLoRA(rank=rank).alpha_used() for rank in (4, 16, 64)} == {8.0}
    assert [LoRA(rank=rank).alpha_used() for rank in (4, 16, 64)] == [8, 32, 128]


@pytest.mark.parametrize("rank", [1, 4, 8, 16, 32, 64, 256])
def test_the_default_rate_falls_with_what_a_step_changes(rank: int) -> None:
    """Half a rung of the ladder is an eighth of a decade."""
    for method in (LoRA(rank=rank), QLoRA(rank=rank), RsLoRA(rank=rank), LoRA(rank=rank, alpha=16.0)):
        step = method.learning_rate * method.scale() * math.sqrt(rank)
        assert abs(math.log10(step / (3.16e-3 * 2 * math.sqrt(8)))) < 0.126


def test_default_rates_of_ranks() -> None:
    assert [LoRA(rank=rank).learning_rate for rank in (1, 8, 16, 64)] == [1e-2, 3.16e-3, 1.78e-3, 1e-3]
    assert {RsLoRA(rank=rank).learning_rate for rank in (1, 8, 64)} == {1.78e-3}  # its scale falls as the rank grows
    assert LoRA(rank=64, learning_rate=0.5).learning_rate == 0.5


def test_no_two_kinds_of_method_share_one_learning_rate_by_accident() -> None:
    rates = {name: METHODS[name](**({"rank": 8} if name in RANKED else {})).learning_rate for name in METHODS.names()}
    assert rates["full"] < rates["lora"] < rates["bitfit"] <= rates["prompt"]


def test_methods_are_known_without_importing_torch() -> None:
    code = (
        "import sys, harness.methods as m; from harness.methods.base import METHODS; METHODS.discover(m);"
        "METHODS['lora'](rank=2);"
        "print({'torch', 'peft', 'transformers', 'bitsandbytes'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
