"""What methods can do, as tried on tiny models, against what is known of them from elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.views.advise import matrix, trials
from analysis.views.advise.tiny import FourBit, Kind, for_method, in_4_bits, logits, tiny
from analysis.views.advise.trials import Capabilities, capabilities
from harness.methods.base import METHODS, Method

NAMES = [name for name, _ in matrix.registered()]
NEW_INPUTS_OR_LAYERS = {"adapter", "lora_prefix", "prefix", "prompt"}
"""Prompts (Lester 2021), prefixes (Li & Liang 2021) and bottlenecks (Houlsby 2019) are no change of a weight matrix; of
LoRA with a prefix (Hu 2021) one half is none."""
ADAPTERS = {"adapter", "lora", "prefix", "prompt", "qlora", "rslora"}
"""Small files beside a base, of which several can be loaded at once; others change the base, or are two adapters."""
LORAS = {"lora", "qlora", "rslora"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Kind], Capabilities]:
    cache = str(tmp_path_factory.mktemp("cache"))
    return matrix.matrix(matrix.registered(), (Kind.decoder, Kind.encoder), cache)


def those(found: dict[tuple[str, Kind], Capabilities], name: str, kind: Kind, fine: bool | None = True) -> set[str]:
    return {method for (method, of), one in found.items() if of is kind and getattr(one, name).fine is fine}


def test_every_method_file_has_its_rows(found: dict[tuple[str, Kind], Capabilities]) -> None:
    assert {name for name, _ in found} == set(METHODS.names()) - {"peft"}


def test_every_method_trains_where_it_applies(found: dict[tuple[str, Kind], Capabilities]) -> None:
    assert those(found, "trains", Kind.encoder) == set(NAMES)
    assert those(found, "trains", Kind.decoder) == set(NAMES) - {"bitfit"}


def test_only_what_changes_weights_merges(found: dict[tuple[str, Kind], Capabilities]) -> None:
    assert those(found, "mergeable", Kind.encoder, False) == NEW_INPUTS_OR_LAYERS
    assert those(found, "mergeable", Kind.decoder, False) == NEW_INPUTS_OR_LAYERS


def test_adapters_are_swappable_and_changed_bases_are_not(found: dict[tuple[str, Kind], Capabilities]) -> None:
    for kind in (Kind.decoder, Kind.encoder):
        assert those(found, "swappable", kind) == ADAPTERS


def test_bitfit_needs_biases_and_does_not_apply_to_a_llama(found: dict[tuple[str, Kind], Capabilities]) -> None:
    assert those(found, "needs_biases", Kind.decoder) == {"bitfit"}
    assert those(found, "applies", Kind.decoder, False) == {"bitfit"}
    assert "no biases" in found["bitfit", Kind.decoder].applies.why
    assert found["bitfit", Kind.decoder].mergeable.fine is None  # could not be tried, which is no "no"
    assert found["bitfit", Kind.encoder].mergeable.fine


def test_4_bit_weights_cannot_be_trained_themselves_but_beside(found: dict[tuple[str, Kind], Capabilities]) -> None:
    """Integers have no gradient: full fine-tuning is out, what trains beside the weights is not (QLoRA, section 2)."""
    assert those(found, "trains_on_4_bit", Kind.decoder, False) == {"full"}
    assert those(found, "trains_on_4_bit", Kind.encoder, False) == {"full"}


def test_nothing_that_changes_matrices_merges_into_4_bits(found: dict[tuple[str, Kind], Capabilities]) -> None:
    """The sum would be rounded to 4 bits again; QLoRA merges into the dequantised base instead."""
    assert not those(found, "merges_in_4_bit", Kind.decoder) & (LORAS | NEW_INPUTS_OR_LAYERS | {"full"})
    assert "rounding" in found["lora", Kind.decoder].merges_in_4_bit.why
    assert found["qlora", Kind.decoder].mergeable == (True, "as full-precision weights")


def test_lora_is_lora_and_others_are_converted_or_not(found: dict[tuple[str, Kind], Capabilities]) -> None:
    assert those(found, "exports_as_lora", Kind.decoder) == LORAS
    assert found["lora", Kind.decoder].exports_as_lora.why == "it is LoRA"


@pytest.mark.parametrize(
    ("peft_type", "lora", "merges", "four_bit"),
    [
        ("LOHA", True, True, False),  # a Hadamard product is a matrix of full rank; PEFT has no 4-bit layer of it
        ("IA3", False, True, True),  # scales activations: the matrix' rows, and a bias besides
        ("P_TUNING", False, False, True),
    ],
)
def test_tuners_of_peft(peft_type: str, lora: bool, merges: bool, four_bit: bool) -> None:
    method = matrix.default("peft", peft_type=peft_type)
    one = capabilities(method, Kind.decoder)
    assert (one.exports_as_lora.fine, one.mergeable.fine, one.trains_on_4_bit.fine) == (lora, merges, four_bit)
    assert one.swappable.fine
    if lora:
        assert "save_as_lora" in one.exports_as_lora.why


def test_a_tuner_whose_options_are_open_is_unknown_and_not_refused() -> None:
    one = capabilities(matrix.default("peft", peft_type="TRAINABLE_TOKENS"), Kind.decoder)
    assert {getattr(one, name).fine for name in trials.NAMES} == {None}
    assert "nothing to train" in one.mergeable.why


def test_a_tuner_that_does_not_apply_says_why() -> None:
    one = capabilities(matrix.default("peft", peft_type="POLY"), Kind.decoder)
    assert one.applies == (False, "POLY needs the number of its task with every input")


@pytest.mark.parametrize(
    ("method", "name", "fine"),
    [
        ({"name": "bitfit", "add_biases": True}, "mergeable", False),  # the base has no place for them
        ({"name": "bitfit", "add_biases": True}, "applies", True),
        ({"name": "lora", "dora": True}, "mergeable", True),
        ({"name": "lora", "rank": 512}, "mergeable", True),  # tried at a rank that fits the tiny model
    ],
)
def test_options_of_a_method_count(method: dict[str, Any], name: str, fine: bool) -> None:
    cls: Any = METHODS[method["name"]]
    options = {key: value for key, value in method.items() if key != "name"}
    known = {field.name for field in dataclasses.fields(cls)}
    one: Method = cls(**({"rank": 4} if "rank" in known else {}) | options)
    assert getattr(capabilities(one, Kind.decoder), name).fine is fine


def test_a_merge_that_loses_the_change_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    method = matrix.default("lora")
    monkeypatch.setattr(type(method), "merge", lambda self, model: model.unload())
    one = capabilities(method, Kind.decoder)
    assert one.mergeable.fine is False
    assert "the logits move" in one.mergeable.why


def test_an_export_that_is_another_adapter_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    method = matrix.default("lora")
    original = type(method).export_adapter

    def scaled(self: Any, model: Any, folder: Path) -> None:
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if "lora_B" in name:
                    tensor.mul_(0.5)
        original(self, model, folder)

    monkeypatch.setattr(type(method), "export_adapter", scaled)
    one = capabilities(method, Kind.decoder)
    assert (one.swappable.fine, one.exports_as_lora.fine, one.mergeable.fine) == (False, False, True)


def test_the_tiny_models_are_small_the_same_each_time_and_have_the_biases_that_they_say() -> None:
    for kind in Kind:
        backbone = tiny(kind, 64)
        assert backbone.parameters < 60_000
        assert torch.equal(logits(backbone.model), logits(tiny(kind, 64).model))
        linear = [name for name, _ in backbone.model.named_parameters() if name.endswith("proj.bias")]
        assert bool(linear) == (kind is Kind.biased)
    assert in_4_bits(for_method(matrix.default("lora"), Kind.decoder, 64, FourBit.always).model)


def test_what_was_tried_is_kept_for_the_same_versions_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = matrix.default("lora")
    first = matrix.of(method, Kind.decoder, str(tmp_path))
    (file,) = (tmp_path / matrix.FOLDER).glob("*.json")
    monkeypatch.setattr(trials, "capabilities", lambda *_: pytest.fail("tried again"))
    assert matrix.of(dataclasses.replace(method, learning_rate=0.5), Kind.decoder, str(tmp_path)) == first
    monkeypatch.undo()
    file.write_text("{", encoding="utf-8")  # a damaged file is tried again
    assert matrix.of(method, Kind.decoder, str(tmp_path)) == first
    monkeypatch.setattr(matrix, "versions", lambda: {"peft": "0.0"})
    matrix.of(method, Kind.decoder, str(tmp_path))
    assert len(list((tmp_path / matrix.FOLDER).glob("*.json"))) == 2


def test_the_matrix_as_text(found: dict[tuple[str, Kind], Capabilities]) -> None:
    rows = {(row["method"], row["model"]): row for row in matrix.rows(found)}
    assert rows["prefix", "decoder"]["mergeable"] == "no"
    assert rows["bitfit", "decoder"]["mergeable"] == "?"
    assert rows["lora", "encoder"]["exports as lora"] == "yes"
