"""Exports of real short runs: an adapter opened by plain PEFT, a merged model by plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_runs import (
    ADAPTERS,
    MERGEABLE,
    UNMERGEABLE,
    Room,
    ask,
    base_model,
    cases,
    close_enough,
    configure,
    logits,
    open_adapter,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness import export, identity, runtime
from harness.errors import ConfigError
from harness.execution import execute, loading, reload
from harness.export import Request
from harness.storage.record import Status

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), cases(ADAPTERS))
def test_adapter_opens_by_plain_peft(kind: str, name: str, trained: Any, tmp_path: Path) -> None:
    run = trained(kind, name)
    to = export.export(ask(run, tmp_path / "adapter"))
    assert close_enough(run, logits(open_adapter(run, to)))
    if kind == "decoder":  # whose base has no new head, by which it would differ in any case
        base = logits(base_model(run, str(run.config.model.path)))
        assert float((base - run.logits[:, -base.shape[1] :]).abs().max()) > 1e-3 * float(base.abs().max())
    assert {path.suffix for path in to.iterdir()} <= {".safetensors", ".json", ".txt", ".md"}  # nothing pickled
    assert AutoTokenizer.from_pretrained(to)("the film").input_ids
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("kind", "name"), cases(MERGEABLE))
def test_merged_model_opens_by_plain_transformers(
    kind: str, name: str, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(kind, name)
    to = export.export(ask(run, tmp_path / "merged", merge=True))
    # LLM.int8 rounds activations, a merged model does not: see the next test.
    assert close_enough(run, logits(base_model(run, to)), 0.1 if name == "qlora8" else 1e-5)
    assert "merged model checked: max |difference of logits| is " in capsys.readouterr().out
    settings = json.loads((to / "config.json").read_text())
    assert settings["architectures"] == ["LlamaForCausalLM" if kind == "decoder" else "BertForSequenceClassification"]
    assert "quantization_config" not in settings
    assert not {"adapter_config.json", "adapter_model.safetensors"} & {path.name for path in to.iterdir()}
    assert AutoTokenizer.from_pretrained(to)("the film").input_ids


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_half_precision_stays_half_and_equal_to_its_rounding(
    name: str, room: Room, trained: Any, tmp_path: Path
) -> None:
    config = configure(room, "decoder", name, "model.dtype=bfloat16")
    assert execute.execute(config) is Status.done
    folder = Path(config.output_dir) / identity.run_id(config)
    export.export(Request(str(folder), str(tmp_path / "adapter")))
    to = export.export(Request(str(folder), str(tmp_path / "merged"), merge=True))
    assert {tensor.dtype for tensor in load_file(to / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(to).dtype is torch.bfloat16


def test_merged_int8_is_the_run_without_rounded_activations(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the plain product with weights that bitsandbytes itself dequantises."""
    from bitsandbytes.functional import int8_vectorwise_dequant
    from bitsandbytes.nn import Linear8bitLt

    run = trained("decoder", "qlora8")
    to = export.export(ask(run, tmp_path / "merged", merge=True))
    printed = capsys.readouterr().out
    assert float(printed.split("logits| is ")[1].split(", ")[1].split()[0]) < 1e-5
    assert "without LLM.int8's rounding of activations" in printed
    model, _, _ = reload.load_run(run.folder)
    for layer in [module for module in model.modules() if isinstance(module, Linear8bitLt)]:
        plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
        plain.weight.data = int8_vectorwise_dequant(layer.weight.CB, layer.weight.SCB)
        layer.forward = plain.forward
    wanted = logits(model)
    assert float((wanted - logits(base_model(run, to))).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_merged_classifier_names_its_labels_and_can_be_a_base(trained: Any, tmp_path: Path, room: Room) -> None:
    run = trained("encoder", "lora")
    to = export.export(ask(run, tmp_path / "merged", merge=True))
    assert json.loads((to / "config.json").read_text())["id2label"] == {"0": "pos", "1": "neg"}
    config = configure(room, "encoder", "full", f"model.path={to}")
    backbone = loading.load(config, reload.prepare_without_data(config), runtime.resolve(config))
    assert close_enough(run, logits(backbone.model))


@pytest.mark.parametrize(("kind", "name"), cases(list(UNMERGEABLE)))
def test_what_cannot_be_merged_says_what_to_do_instead(kind: str, name: str, trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave merge out: the adapter folder opens with PeftModel"):
        export.export(ask(trained(kind, name), tmp_path / "to", merge=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "name"), cases(["full", "bitfit", "head_only"]))
def test_methods_without_an_adapter_point_to_merging(kind: str, name: str, trained: Any, tmp_path: Path) -> None:
    run = trained(kind, name)
    with pytest.raises(ConfigError, match=f"^run={run.id}: {name} trains no adapter; .* merge=true"):
        export.export(ask(run, tmp_path / "to"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_added_biases_have_no_place_in_the_base(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no place for the biases"):
        export.export(ask(trained("decoder", "bitfit_added"), tmp_path / "to", merge=True))
    assert not list(tmp_path.iterdir())


# PEFT rebuilds LoftQ's base with 4-bit kernels of its own that need CUDA; where there is one nothing is refused.
@pytest.mark.skipif(torch.cuda.is_available(), reason="PEFT can rebuild LoftQ's base here")
def test_an_adapter_that_peft_cannot_open_is_not_written(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"PEFT cannot open its adapter on this machine .* merge=true"):
        export.export(ask(trained("decoder", "loftq"), tmp_path / "to"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("encoder", "lora", "lora_other"),
        ("encoder", "lora", "pissa"),
        ("encoder", "adapter", "adapter_other"),
        ("decoder", "lora", "rslora"),
        ("decoder", "prompt", "prompt_text"),
    ],
)
def test_adapters_of_one_base_are_swapped_on_the_loaded_model(
    kind: str, first: str, second: str, trained: Any, tmp_path: Path
) -> None:
    runs = [trained(kind, first), trained(kind, second)]
    folders = [export.export(ask(run, tmp_path / str(number))) for number, run in enumerate(runs)]
    model = open_adapter(runs[0], folders[0])
    model.load_adapter(str(folders[1]), adapter_name="other")
    for name, run in [("default", runs[0]), ("other", runs[1]), ("default", runs[0])]:
        model.set_adapter(name)
        assert close_enough(run, logits(model))
