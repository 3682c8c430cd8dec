"""Probes in whole runs: what a record says of them, that they disturb nothing, and what the base is."""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
from command_line import call
from probing import run as run_config
from probing import small
from small_runs import assert_same_run, assert_same_tensors, run

from harness import runtime, table
from harness.config import RunConfig, Unfit
from harness.errors import ConfigError
from harness.execution import session
from harness.forgetting import heads, passes
from harness.forgetting.base import PROBES
from harness.forgetting.measure import Probing, fit
from harness.forgetting.probes.lm_loss import LanguageModelLoss, Objective
from harness.forgetting.subject import undisturbed
from harness.identity import identity, run_id
from harness.run import cli
from harness.storage.outcomes import read_items, read_series
from harness.storage.record import Status, comparable
from harness.storage.shared import SharedStore
from harness.sweep import Planned, prepare
from harness.training.trainer import HarnessTrainer

pytestmark = pytest.mark.usefixtures("quick")
METHODS: dict[str, list[str]] = {
    "full": ["method=full"],
    "lora": ["method=lora"],
    "pissa": ["method=lora", "method.init=pissa"],
    "dora": ["method=lora", "method.dora=true"],
    "rslora": ["method=rslora"],
    "qlora": ["method=qlora"],
    "prefix": ["method=prefix"],
    "prompt": ["method=prompt"],
    "bitfit": ["method=bitfit", "method.add_biases=true"],
    "adapter": ["method=adapter"],
    "head_only": ["method=head_only"],
    "ia3": ["method=peft", "method.peft_type=IA3"],
}
Overrides = Callable[..., list[str]]


@pytest.fixture
def overrides(data_folder: Path, llama_folder: Path) -> Overrides:
    """Return a function from a model's name and further overrides to those of a run with small probes."""

    def make(model: str, *more: str) -> list[str]:
        chosen = ["model=custom", f"model.path={llama_folder}"] if model == "llama" else [f"model={model}"]
        return [*chosen, *small_runs.task("classification", data_folder), "rank=4", *small(data_folder), *more]

    return make


@pytest.fixture(scope="module")
def llama_run(
    data_folder: Path, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> tuple[Path, dict[str, Any]]:
    """Return the folder and record of `run(…, *overrides("llama"))`, run once for those that only look at it."""
    model = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder), "rank=4"]
    return run(tmp_path_factory.mktemp("llama-run"), *model, *small(data_folder))


def unprobed(config: RunConfig) -> RunConfig:
    """Return the same run without probes."""
    return replace(config, forgetting=replace(config.forgetting, probes={}))


FITS = {
    "bert_tiny": {"lm_loss", "divergence"},
    "minilm_l6": {"divergence", "retrieval"},
    "llama": {"lm_loss", "divergence", "abilities"},
}


CASES = [(name, model) for name in METHODS for model in FITS]
CASES.remove(("head_only", "llama"))  # its output layer is its input embedding: there is no head to train
for variant in ("dora", "pissa", "rslora", "bitfit", "adapter", "head_only"):
    # To retrieval they are LoRA or full fine-tuning once more: no virtual tokens, no weights in another form.
    CASES.remove((variant, "minilm_l6"))
for variant in ("dora", "rslora"):  # to the small encoder too
    CASES.remove((variant, "bert_tiny"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), CASES)
def test_every_method_on_every_model_is_measured(name: str, model: str, overrides: Overrides, tmp_path: Path) -> None:
    folder, record = run(tmp_path, *overrides(model, *METHODS[name], "train.max_steps=1"))
    assert record["status"] == Status.done, record["traceback"]
    found = record["forgetting"]
    assert list(found) == ["lm_loss", "divergence", "abilities", "retrieval"]
    assert {label for label, entry in found.items() if entry["status"] == "measured"} == FITS[model]
    for entry in found.values():
        assert entry["version"] == PROBES[entry["probe"]].version
        assert (entry["reason"] is None) == (entry["status"] == "measured") == bool(entry["metrics"])
        for change in entry["metrics"].values():
            for score in filter(None, change.values()):
                if score["value"] is not None:
                    assert score["low"] <= score["value"] + 1e-9 and score["value"] <= score["high"] + 1e-9
    assert found["divergence"]["metrics"]["task/kl"]["after"]["value"] >= 0
    check_items(folder, record)
    assert {"forgetting", "forgetting_base"} <= set(record["seconds"])


def check_items(folder: Path, record: dict[str, Any]) -> None:
    """Require items of both models in the same order, and nothing of them where other readers look."""
    before, after = (read_series(folder / "items.parquet", phase) for phase in ("before", "after"))
    paired = {name for name in after if not name.startswith("forgetting/divergence/")}
    assert paired == set(before)
    for name in paired:
        assert [o.item for o in before[name]] == [o.item for o in after[name]]
    assert all(set(splits) == {"validation", "test"} for splits in read_items(folder / "items.parquet").values())
    for label, entry in record["forgetting"].items():
        if entry["status"] == "measured":
            assert any(name.startswith(f"forgetting/{label}/") for name in after)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [("lora", "bert_tiny"), ("lora", "llama"), ("prompt", "llama")])
def test_probes_along_the_way_change_no_result(name: str, model: str, overrides: Overrides, tmp_path: Path) -> None:
    """With dropout, so that a random number too many would show; to the last bit."""
    chosen = [*METHODS[name], *(["method.dropout=0.3"] if name == "lora" else [])]
    without, plain = run_config(unprobed(small_runs.configure(tmp_path / "without", *overrides(model, *chosen))))
    probed, record = run(tmp_path / "with", *overrides(model, *chosen, "forgetting.every=1"))
    assert record["status"] == Status.done, record["traceback"]
    assert_same_tensors(without / "trained", probed / "trained")
    assert record["scores"] == plain["scores"]
    lines = small_runs.history(probed)
    kept = [{key: line[key] for key in line if not key.startswith(("forgetting/", "validation/"))} for line in lines]
    assert kept == small_runs.history(without)
    assert all(any(key.startswith("forgetting/") for key in line) for line in lines)
    assert "forgetting" not in plain["seconds"] and plain["forgetting"] == {}


@pytest.mark.slow
def test_last_line_of_history_is_the_record(overrides: Overrides, tmp_path: Path) -> None:
    folder, record = run(tmp_path, *overrides("llama", "forgetting.every=2"))
    lines = {line["step"]: line for line in small_runs.history(folder)}
    assert not any(key.startswith("forgetting/") for key in lines[1])
    metrics = record["forgetting"]["lm_loss"]["metrics"]
    assert lines[4]["forgetting/lm_loss/loss"] == metrics["loss"]["after"]["value"]
    assert lines[2]["forgetting/lm_loss/loss"] != lines[4]["forgetting/lm_loss/loss"]
    assert record["forgetting"]["events"]["notes"]["steps"] == [2, 4]
    assert set(record["forgetting"]["events"]["metrics"]) >= {"train/events_per_item", "validation/forgotten"}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert_tiny", "llama"])
def test_cut_run_with_probes_ends_as_a_whole_one(model: str, overrides: Overrides, tmp_path: Path) -> None:
    chosen = overrides(model, "forgetting.every=1", "method.dropout=0.2")
    whole, _ = run(tmp_path / "whole", *chosen)
    original = HarnessTrainer.compute_loss

    def interrupted(self: HarnessTrainer, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HarnessTrainer, "compute_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", *chosen)
    torch.manual_seed(99)
    resumed, record = run(tmp_path / "cut", *chosen)
    assert record["interruptions"] == 1
    assert_same_run(whole, resumed)
    ours, theirs = (read_series(folder / "items.parquet", "after") for folder in (whole, resumed))
    assert repr(ours) == repr(theirs)  # a NaN equals nothing


def test_undisturbed_puts_everything_back() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2), torch.nn.Dropout())
    model[2].eval()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    wanted = (random.random(), np.random.random(), torch.rand(1))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    with pytest.raises(ZeroDivisionError), undisturbed(model, runtime.resolve(small_runs.configure("runs"))):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        random.seed(7), np.random.seed(7), torch.manual_seed(7)
        _ = 1 / 0
    assert (random.random(), np.random.random(), torch.rand(1)) == wanted
    assert [module.training for module in model] == [True, True, False]
    assert torch.is_grad_enabled()


@pytest.mark.slow
def test_base_is_measured_once_and_is_the_untouched_model(
    overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PiSSA moves a part of the base's weights, QLoRA rounds them: the base's numbers are those of neither."""
    original, measured = Probing._measure, []

    def counted(self: Probing, label: str, subject: Any, base: Any) -> Any:
        measured.append((label, base is None))
        return original(self, label, subject, base)

    monkeypatch.setattr(Probing, "_measure", counted)
    records = [run(tmp_path, *overrides("llama", *METHODS[name]))[1] for name in ("pissa", "qlora")]
    assert measured.count(("lm_loss", True)) == measured.count(("abilities", True)) == 1
    assert measured.count(("lm_loss", False)) == 2
    for label in ("lm_loss", "abilities"):
        entries = [record["forgetting"][label] for record in records]
        assert len({entry["base"] for entry in entries}) == 1
        before = [{name: change["before"] for name, change in entry["metrics"].items()} for entry in entries]
        assert before.count(before[0]) == len(before)
    for different, again in (("train.bf16=true", True), ("forgetting.documents=1", True), ("seed=1", False)):
        count = measured.count(("lm_loss", True))
        run(tmp_path, *overrides("llama", different))
        assert measured.count(("lm_loss", True)) == count + again, different


@pytest.mark.slow
def test_another_version_is_another_base_and_another_run(
    overrides: Overrides, llama_run: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = llama_run
    config = small_runs.configure(tmp_path, *overrides("llama"))
    before = run_id(config)
    monkeypatch.setattr(LanguageModelLoss, "version", 2)
    assert run_id(config) != before
    other, newer = run(tmp_path, *overrides("llama"))
    assert newer["forgetting"]["lm_loss"]["base"] != record["forgetting"]["lm_loss"]["base"]
    versions = table.probe_versions([folder, other])
    assert versions["lm_loss"] == 2
    assert "lm_loss version 1" in table.row(folder, versions)
    assert any(cell.startswith("loss ") for cell in table.row(other, versions))


def test_table_shows_the_change_in_loss(llama_run: tuple[Path, dict[str, Any]]) -> None:
    folder, record = llama_run[0], dict(llama_run[1])
    delta = record["forgetting"]["lm_loss"]["metrics"]["loss"]["delta"]
    cells = dict(zip(table.COLUMNS, table.row(folder), strict=True))
    assert cells["forgetting"].startswith(f"loss {delta['value']:+.3f}".replace("0.", ".", 1))
    record["forgetting"] = {}
    assert table.forgetting(record, {}) == "-"


def test_tracker_gets_the_numbers(llama_run: tuple[Path, dict[str, Any]]) -> None:
    from harness.tracking.base import flatten

    _, record = llama_run
    leaves = flatten({"forgetting": record["forgetting"]})
    assert isinstance(leaves["forgetting/lm_loss/metrics/loss/delta/value"], float)
    assert leaves["forgetting/lm_loss/version"] == 1


@pytest.mark.slow
def test_damaged_base_is_measured_again(overrides: Overrides, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, first = run(tmp_path, *overrides("llama"))
    store = tmp_path / ".base" / f"probe-{first['forgetting']['divergence']['base']}"
    tensors = (store / "tensors.safetensors").read_bytes()
    (store / "tensors.safetensors").write_bytes(tensors[: len(tensors) // 2])
    with caplog.at_level(logging.WARNING):
        _, second = run(tmp_path, *overrides("llama", "seed=1"))
    assert second["status"] == Status.done
    assert "is damaged" in caplog.text
    assert (store / "tensors.safetensors").read_bytes() == tensors


def test_store_without_columns_is_not_trusted(tmp_path: Path) -> None:
    store = SharedStore(tmp_path, "probe", {"a": 1})
    with store.lock():
        assert store.read() is None
        store.path.mkdir()
        (store.path / "items.parquet").write_bytes(b"PAR1")
        assert store.read() is None


@pytest.mark.slow
@pytest.mark.parametrize(("model", "texts"), [("llama", 2), ("bert_tiny", 1)])
def test_each_text_is_read_once_a_model_and_the_base_is_not_loaded_for_it(
    model: str, texts: int, overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """General text by two probes and a decoder's prompts by one: the base, four steps on the way, and at the end."""
    read, loaded = (count(monkeypatch, module, name) for module, name in ((passes, "read"), (heads, "OutputHead")))
    _, record = run(tmp_path, *overrides(model, "forgetting.every=1"))
    assert record["status"] == Status.done, record["traceback"]
    assert (len(read), len(loaded)) == (6 * texts, 1)
    run(tmp_path, *overrides(model, "method=full"))
    assert (len(read), len(loaded)) == (7 * texts, 2)


def count(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[None]:
    """Return a list that grows by one at each call of a module's function."""
    original, calls = getattr(module, name), []

    def counted(*arguments: Any) -> Any:
        calls.append(None)
        return original(*arguments)

    monkeypatch.setattr(module, name, counted)
    return calls


def with_probe(config: RunConfig, probe: Any, unfit: Unfit = Unfit.refuse) -> RunConfig:
    return replace(config, forgetting=replace(config.forgetting, probes={"mine": probe}, unfit=unfit))


def test_probe_that_does_not_fit_is_refused_before_training(overrides: Overrides, tmp_path: Path) -> None:
    config = replace(small_runs.configure(tmp_path, *overrides("llama")), output_dir=str(tmp_path))
    masked = with_probe(config, LanguageModelLoss(objective=Objective.masked), Unfit.skip)
    with pytest.raises(
        ConfigError, match=r"lm_loss\.objective=masked: the model is a decoder; it needs auto or next_token"
    ):
        prepare([Planned([], masked, "id", "new")])
    encoder = small_runs.configure(tmp_path, *overrides("minilm_l6"))
    with pytest.raises(
        ConfigError, match=r"forgetting\.probes\.mine=lm_loss: does not fit: the checkpoint has no masked"
    ):
        prepare([Planned([], with_probe(encoder, LanguageModelLoss()), "id", "new")])
    here = runtime.resolve(encoder)
    skipped = fit(with_probe(encoder, LanguageModelLoss(), Unfit.skip), session.prepare(encoder), here)
    assert "mine" in skipped.unfit and not skipped.fitted


def test_without_probes_the_identity_is_what_it_was(overrides: Overrides) -> None:
    none = unprobed(small_runs.configure("runs", *overrides("llama")))
    assert "forgetting" not in identity(none)
    assert run_id(none) == run_id(replace(none, forgetting=replace(none.forgetting, documents=3)))
    one = small_runs.configure("runs", *overrides("llama"))
    others = [replace(one.forgetting, **{key: 5}) for key in ("documents", "every", "train_items")]
    assert len({run_id(none), run_id(one), *(run_id(replace(one, forgetting=other)) for other in others)}) == 5
    assert run_id(replace(one, forgetting=replace(one.forgetting, unfit=Unfit.refuse))) == run_id(one)


def test_record_comes_back_as_the_configuration(
    overrides: Overrides, llama_run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from harness.execution.reload import config_of

    record = deepcopy(llama_run[1])
    config = small_runs.configure(tmp_path, *overrides("llama"))
    assert config_of(record).forgetting == config.forgetting
    assert run_id(config_of(json.loads(json.dumps(record)))) == record["id"]
    del record["config"]["forgetting"]  # as records of an earlier version have none
    assert config_of(record).forgetting.probes == {}


@pytest.mark.slow
def test_same_run_gives_the_same_record(
    overrides: Overrides, llama_run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, second = run(tmp_path, *overrides("llama"))
    assert comparable(llama_run[1]) == comparable(second)


def test_exotic_logits_are_not_applicable(
    overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.errors import NotApplicable

    def refuse(*_: Any) -> None:
        raise NotApplicable("the logits are not a function of the last hidden states alone")

    monkeypatch.setattr(passes, "require_same_logits", refuse)
    _, record = run(tmp_path, *overrides("llama"))
    assert record["status"] == Status.done
    assert record["forgetting"]["abilities"]["status"] == record["forgetting"]["lm_loss"]["status"] == "measured"
    assert record["forgetting"]["divergence"]["status"] == "not_applicable"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["forgetting=defalt"], "forgetting=defalt: no such forgetting; did you mean default?"),
        (["forgetting.every=-1"], "forgetting.every=-1: must be at least 0"),
        (["forgetting.window=3"], "forgetting.window=3: must be at least 8"),
        (["+probe@forgetting.probes.x=lm_los"], "lm_los: no such"),
        (["forgetting.probes.abilities.limt=3"], "forgetting.probes.abilities.limt=3: no such key"),
        (["sequence=[trec,bolq]"], "sequence=bolq: no such task; did you mean boolq?"),
        (["sequence=[trec]"], "sequence=[trec]: needs at least two tasks"),
    ],
)
def test_command_line_says_what_is_wrong_in_a_line(
    words: list[str], said: str, llama_folder: Path, tmp_path: Path
) -> None:
    done = call(cli, "model=custom", f"model.path={llama_folder}", "tracker=none", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list((tmp_path / "runs").glob("lora*"))


def test_probes_import_the_heavy_inside_functions_only() -> None:
    code = "import sys, harness.compose; harness.compose.register(); print([m for m in HEAVY if m in sys.modules])"
    heavy = 'HEAVY = ("torch", "transformers", "lm_eval", "datasets", "scipy", "pyarrow", "peft")\n'
    done = subprocess.run([sys.executable, "-c", heavy + code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_smollm2_takes_the_default_probes(tmp_path: Path) -> None:
    few = ["forgetting.documents=2", "forgetting.probes.divergence.task_items=4", "forgetting.probes.abilities.limit=2"]
    sizes = ["task.max_train=100", "task.max_test=8", "task.max_validation=8"]
    short = ["train.max_steps=1", "train.save_steps=0"]
    _, record = run(tmp_path, "model=smollm2_135m", "task=trec", "forgetting=default", *few, *sizes, *short)
    assert record["status"] == Status.done, record["traceback"]
    metrics = record["forgetting"]["lm_loss"]["metrics"]
    # The assets' documentation gives perplexities of about 32 on OpenWebText and 24 on Wikipedia.
    assert 20 < 2.718281828 ** metrics["loss/openwebtext"]["before"]["value"] < 45
    assert 15 < 2.718281828 ** metrics["loss/wikipedia"]["before"]["value"] < 35
