"""What a model is comes from its files: a preset says nothing of another model, and a kind cannot contradict them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_runs
from command_line import call
from hydra import compose, initialize_config_dir
from small_runs import run

from harness.compose import conf_folder, register, to_run_config
from harness.config import DType, ModelConfig, ModelKind, RunConfig
from harness.errors import ConfigError
from harness.models import kind_of, load_tokenizer
from harness.run import cli
from harness.storage.assets import Files, cache_root, fetch_model, model_hashes


def composed(*overrides: str, config_dir: Path | None = None) -> RunConfig:
    """Return what the command line makes of overrides, the choice of a preset included."""
    register()
    searched = [f"hydra.searchpath=[file://{config_dir}]"] if config_dir else []
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return to_run_config(compose("config", [*searched, *overrides], return_hydra_config=True))


@pytest.fixture(scope="module")
def bert_folder() -> Path:
    """Return the folder of BERT-tiny, as a user would have it on disk."""
    return fetch_model(small_runs.configure("runs", "model=bert_tiny").model, cache_root(None)).folder


@pytest.mark.slow
def test_a_bert_given_by_path_is_an_encoder_whatever_the_default_preset_is(
    bert_folder: Path, data_folder: Path, tmp_path: Path, quick: None
) -> None:
    """As a causal model it would see the answers that it is trained on."""
    config = composed(f"model.path={bert_folder}")
    assert (config.model.kind, config.model.dtype) == (ModelKind.auto, DType.float32)
    assert kind_of(bert_folder, config.model) == "encoder"
    folder, record = run(tmp_path, f"model.path={bert_folder}", *small_runs.task("classification", data_folder))
    assert record["status"] == "done", record.get("traceback")
    assert record["parameters"]["trainable"] > 0
    saved = json.loads((folder / "trained" / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["task_type"] == "SEQ_CLS"


@pytest.mark.slow
def test_kind_and_dtype_of_a_preset_are_its_own_models(bert_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    preset = "defaults: [custom, _self_]\nid: some/decoder\nkind: decoder\ndtype: bfloat16\n"
    (tmp_path / "model" / "mine.yaml").write_text(preset, encoding="utf-8")
    own = composed("model=mine", config_dir=tmp_path).model
    assert (own.kind, own.dtype) == (ModelKind.decoder, DType.bfloat16)
    for other in (f"model.path={bert_folder}", "model.id=some/encoder"):
        found = composed("model=mine", other, config_dir=tmp_path).model
        assert (found.kind, found.dtype) == (ModelKind.auto, DType.float32)
        asked = composed("model=mine", other, "model.dtype=float16", config_dir=tmp_path).model
        assert asked.dtype is DType.float16


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_the_command_line_forgets_the_preset_alone_and_in_a_sweep(
    sweep: list[str], bert_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    preset = "defaults: [custom, _self_]\nid: some/decoder\nkind: decoder\ndtype: bfloat16\n"
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(preset, encoding="utf-8")
    own = ["--config-dir", str(tmp_path / "conf"), *sweep, f"model.path={bert_folder}", "dry_run=true", "rank=4"]
    plans = {model: call(cli, *own, f"model={model}", cwd=tmp_path).stdout for model in ("custom", "mine")}
    assert "lora-r4-" in plans["mine"] and plans["mine"] == plans["custom"]


def described(tmp_path: Path, **config: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "encoder"),
        ({"architectures": ["BertModel"], "model_type": "bert"}, "encoder"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "decoder"),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "decoder"),
        ({"architectures": ["LlamaModel"], "model_type": "llama"}, "decoder"),
        ({"model_type": "roberta"}, "encoder"),
        ({"model_type": "mistral"}, "decoder"),
    ],
)
def test_kind_comes_from_the_architecture(config: dict[str, Any], kind: str, tmp_path: Path) -> None:
    folder = described(tmp_path, **config)
    assert kind_of(folder, ModelConfig(path=str(folder))) == kind
    contrary = ModelKind.encoder if kind == "decoder" else ModelKind.decoder
    with pytest.raises(ConfigError, match=rf"model.kind={contrary.value}: .* of kind {kind}; leave it out"):
        kind_of(folder, ModelConfig(path=str(folder), kind=contrary))


def test_a_kind_that_nothing_tells_has_to_be_given(tmp_path: Path) -> None:
    folder = described(tmp_path, model_type="unheard_of")
    with pytest.raises(ConfigError, match=r"model.kind=auto: cannot tell for unheard_of"):
        kind_of(folder, ModelConfig(path=str(folder)))
    assert kind_of(folder, ModelConfig(path=str(folder), kind=ModelKind.encoder)) == "encoder"


def test_a_contradiction_is_refused_before_anything_is_trained(bert_folder: Path, tmp_path: Path) -> None:
    from harness.sweep import run_single

    config = small_runs.configure(tmp_path, "model=bert_tiny", "model.kind=decoder")
    with pytest.raises(ConfigError, match=r"model.kind=decoder: bert_tiny is BertForMaskedLM"):
        run_single(config, lambda _: pytest.fail("trained"))


def test_a_tokenizer_whose_files_have_changed_is_read_again(llama_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    first = load_tokenizer(Files(folder, model_hashes(folder), ""))
    assert load_tokenizer(Files(folder, model_hashes(folder), "")) is first
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8")
    again = load_tokenizer(Files(folder, model_hashes(folder), ""))
    assert again is not first and again.chat_template != first.chat_template
