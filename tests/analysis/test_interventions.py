"""Causal tests of intruder dimensions: W(λ) by its formula, restored to the bit, evaluated as a user would by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_runs
import torch
from command_line import call
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension
from tiny_models import perturb, tiny
from torch import nn

from analysis.interventions import COMMAND, Settings
from analysis.intruders import Settings as Counting
from analysis.spectra.adapters import Adapter
from analysis.spectra.checkpoints import Checkpoint
from analysis.spectra.interventions.command import intervene
from analysis.spectra.interventions.examine import Examination
from analysis.spectra.interventions.results import percent
from analysis.spectra.interventions.store import CURVES
from analysis.spectra.interventions.vectors import EQUAL, Chosen, choose, neighbour
from analysis.spectra.intruders.sources import jobs
from analysis.spectra.weights import Pair
from harness.errors import ConfigError, HarnessError
from harness.execution.reload import config_of, load_run
from harness.methods.peft import quiet_peft
from harness.storage.files import write_json
from harness.storage.record import NO_WEIGHTS
from harness.tasks.base import Score

pytestmark = pytest.mark.usefixtures("quick")
EPS = 0.9
"""On matrices of side 32 chance alone gives cosines of .5."""
METHODS = {
    "lora": ["method=lora"],
    "full": ["method=full"],
    "qlora": ["method=qlora"],
    "gpt2": ["method=lora"],
    "prompt": ["method=prompt", "method.length=3"],
    "kept": ["method=lora", "train.save_steps=2", "train.keep_checkpoints=true"],
    "kept, slower": ["method=lora", "train.learning_rate=0.003"],
    "kept, faster": ["method=lora", "train.learning_rate=0.1"],
    "kept, other seed": ["method=lora", "train.learning_rate=0.003", "seed=1"],
}
Trained = Callable[[str], Path]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, gpt2_folder: Path, data_folder: Path
) -> Trained:
    """Return the folder of a run of this name, with language-model loss as its probe; trained at most once."""
    runs, done = tmp_path_factory.mktemp("runs"), {}
    text = [
        "+text@forgetting.texts.mine=file",
        f"forgetting.texts.mine.path={data_folder / 'text.parquet'}",
        "forgetting.texts.mine.column=text",
    ]
    probe = ["forgetting=none", "+probe@forgetting.probes.lm_loss=lm_loss", "forgetting.documents=6", *text]

    def one(name: str) -> Path:
        if name not in done:
            base = gpt2_folder if name == "gpt2" else llama_folder
            model = ["model=custom", f"model.path={base}", *small_runs.task("classification", data_folder)]
            steps = ["train.max_steps=6", "rank=2", "train.learning_rate=0.03", "train.save_steps=0"]
            done[name] = composed_run(runs / name.partition(",")[0], *model, *steps, *METHODS[name], *probe)
        return done[name]

    return one


def composed_run(output_dir: Path, *overrides: str) -> Path:
    """Execute a run composed by Hydra itself, which alone knows groups that are added."""
    from dataclasses import replace

    from harness.compose import compose
    from harness.execution.execute import execute

    config = replace(
        compose("tracker=none", "train.per_device_train_batch_size=4", *overrides), output_dir=str(output_dir)
    )
    execute(config)
    return small_runs.folder_of(config)


def pair_of(folder: Path) -> Pair:
    (job,) = jobs(Counting(runs=(str(folder),)))
    return job.steps[-1][1]


def chosen_of(folder: Path, mode: str = "top", k: int = 5, eps: float = EPS, cut: bool = True) -> list[Chosen]:
    return list(choose(pair_of(folder), Counting(runs=(str(folder),), k=k, eps=eps), mode, "w0", cut))


def numbers(folder: Path, table: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / "analysis" / f"{table}.parquet").to_pylist()


def by_formula(matrix: Any, index: int, factor: float) -> np.ndarray:
    """Return W + (λ - 1) u σ vᵀ by numpy alone, from the definition."""
    w = (matrix.base + matrix.change.dense()).double().numpy()
    u, s, vt = np.linalg.svd(w)
    return w + (factor - 1) * s[index] * np.outer(u[:, index], vt[index])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "full", "gpt2", "qlora"])
def test_the_model_holds_the_formula_and_is_restored_to_the_bit(trained, name):
    folder = trained(name)
    examination = Examination.of(folder, "test", probes=False)
    weights, pair = examination.load(), pair_of(folder)
    for matrix_name in pair.names:
        weights.set(pair.load(matrix_name)[-1])
    before = {key: value.clone() for key, value in examination.model.state_dict().items()}
    scalings = [one.intruders for one in chosen_of(folder) if one.intruders]
    assert scalings
    with weights.scaled(scalings, 0.25):
        changed = {key for key, value in examination.model.state_dict().items() if not torch.equal(value, before[key])}
        assert len(changed) == len(scalings)
        for scaling in scalings:
            found = weights.turned(scaling.matrix, weights.parameter(scaling.matrix).detach()).numpy()
            expected = by_formula(pair.load(scaling.matrix)[-1], scaling.indices[0], 0.25)
            np.testing.assert_allclose(found, expected, atol=2e-4)
    after = examination.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.slow
def test_a_failure_while_scaled_restores_the_model_too(trained):
    examination = Examination.of(trained("lora"), "test", probes=False)
    weights = examination.load()
    before = {key: value.clone() for key, value in examination.model.state_dict().items()}
    scalings = [one.intruders for one in chosen_of(trained("lora")) if one.intruders]
    with pytest.raises(KeyboardInterrupt), weights.scaled(scalings, 0):
        raise KeyboardInterrupt
    assert all(torch.equal(examination.model.state_dict()[key], value) for key, value in before.items())


@pytest.mark.slow
def test_the_merged_model_answers_as_the_tuned_one(trained):
    """λ = 1 is the run itself: the same predictions as in its record."""
    for name in ("lora", "full", "qlora"):
        examination = Examination.of(trained(name), "test", probes=False)
        weights, pair = examination.load(), pair_of(trained(name))
        for matrix in pair.names:
            weights.set(pair.load(matrix)[-1])
        found = examination.ask()["test"]
        rows = pq.read_table(trained(name) / "items.parquet").to_pylist()
        kept = [row for row in rows if (row["phase"], row["split"]) == ("after", "test")]
        assert [o.prediction for o in found] == [row["prediction"] for row in kept]


def test_a_neighbour_is_the_nearest_that_is_none():
    s = np.array([9.0, 8.0, 7.5, 3.0, 1.0])
    assert neighbour(0, np.array([True, True, False, False, False]), s) == 2
    assert neighbour(1, np.array([False, True, False, False, False]), s) == 2  # 8 - 7.5 < 9 - 8
    assert neighbour(2, np.array([False, False, True, False, False]), s) == 1
    assert neighbour(0, np.array([True] * 5), s) is None


def test_a_neighbour_is_looked_for_beyond_k_where_the_first_k_are_all_intruders(trained):
    chosen = chosen_of(trained("lora"), k=1, eps=EPS)
    beyond = [one for one in chosen if one.intruders and one.intruders.indices == (0,) and one.neighbour]
    assert beyond and all(one.neighbour.indices == (1,) for one in beyond)
    for one in beyond:
        assert one.neighbour.cos[0] >= EPS > one.intruders.cos[0]


def plain_lora(folder: Path, rank: int) -> tuple[nn.Module, Pair]:
    """Write a base of plain linear layers and an adapter far off its start; return the PEFT model and the pair."""
    tiny("llama").model.save_pretrained(folder / "base")
    with quiet_peft():
        config = LoraConfig(r=rank, lora_alpha=3 * rank, target_modules="all-linear")
        model = get_peft_model(tiny("llama").model, config)
    perturb(model)
    model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    return model, Pair(Checkpoint(folder / "base", "base"), Adapter(folder / "adapter"))


@pytest.mark.parametrize("factor", [0.0, 0.75])
def test_mitigation_agrees_with_peft(tmp_path, factor):
    model, pair = plain_lora(tmp_path, rank=3)
    counting = Counting(base="x", tuned="y", out="z", k=6, eps=0.8, algorithm="svd")
    chosen = {one.matrix: one.intruders for one in choose(pair, counting, "mitigation", "w0", cut=True)}
    assert sum(len(scaling.indices) for scaling in chosen.values() if scaling) > 10
    options = {"top_k": 6, "threshold_epsilon": 0.8, "mitigation_lambda": factor, "logging_sink": None}
    with quiet_peft():
        reduce_intruder_dimension(model, **options)
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    for name, scaling in chosen.items():
        (layer,) = [module for key, module in layers.items() if name.removesuffix(".weight") in key]
        ours = pair.load(name)[0].change.dense() + (scaling.update(factor) if scaling else 0)
        theirs = layer.get_delta_weight("intruder_reduced").detach()
        assert (scaling is not None) == (not torch.allclose(theirs, layer.get_delta_weight("default"), atol=1e-5))
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3)


def test_without_the_cut_mitigation_is_the_sum_itself(tmp_path):
    _, pair = plain_lora(tmp_path, rank=3)
    counting = Counting(base="x", tuned="y", out="z", k=6, eps=0.8)
    found = [one for one in choose(pair, counting, "mitigation", "w0", cut=False) if one.intruders]
    for one in found:
        matrix = pair.load(one.matrix)[0]
        w = (matrix.base + matrix.change.dense()).double().numpy()
        u, s, vt = np.linalg.svd(w)
        expected = sum(-0.5 * s[i] * np.outer(u[:, i], vt[i]) for i in one.intruders.indices)
        np.testing.assert_allclose(one.intruders.update(0.5).numpy(), expected, atol=2e-4)


LAMBDAS = (0.0, 0.5, 2.0)


@pytest.fixture(scope="module")
def tested(trained, tmp_path_factory) -> Path:
    """Return a run on which the whole command was run."""
    folder = tmp_path_factory.mktemp("tested") / trained("lora").name
    shutil.copytree(trained("lora"), folder)
    assert intervene(Settings(run=str(folder), lambdas=LAMBDAS, k=5, eps=EPS)) is None
    return folder


@pytest.mark.slow
def test_curves_are_what_evaluating_by_hand_gives(tested):
    """The tuned model merged by PEFT, its weights set by numpy, asked through the harness's own functions."""
    rows = numbers(tested, "lambda")
    assert pq.read_schema(tested / "analysis" / "lambda.parquet").names == list(CURVES)
    assert {(row["curve"], row["lambda"]) for row in rows} == {
        (curve, value) for curve in ("intruder", "neighbour", *EQUAL) for value in (0.0, 0.5, 1.0, 2.0)
    }
    model, _, prepared = load_run(tested)
    config = config_of(small_runs.read_record(tested))
    merged = config.method.merge(model)
    pair, scaled = pair_of(tested), numbers(tested, "lambda_vectors")
    parameters = dict(merged.named_parameters())
    for row in (row for row in scaled if row["curve"] == "intruder"):
        expected = by_formula(pair.load(row["matrix"])[0], row["index"], 0.5)
        parameters[row["matrix"]].data.copy_(torch.from_numpy(expected))
    outcomes = small_runs.answer(merged, prepared.objective, {"test": prepared.questions["test"]}, config)
    expected_loss = [outcome.loss for outcome in outcomes["test"]]
    here = {"curve": "intruder", "lambda": 0.5}
    (row,) = [row for row in rows if row["of"] == "task" and row["headline"] and here.items() <= row.items()]
    assert row["value"] == config.task.score(outcomes["test"])[config.task.metric].value
    items = [row for row in numbers(tested, "lambda_items") if row["split"] == "test" and here.items() <= row.items()]
    assert [item["loss"] for item in items] == pytest.approx(expected_loss, rel=1e-3)


@pytest.mark.slow
def test_controls_remove_what_the_intruder_does(tested):
    rows = [row for row in numbers(tested, "lambda") if row["of"] == "task" and row["headline"]]
    removed = {(row["curve"], row["lambda"]): row["removed"] for row in rows}
    sigmas = [row["sigma"] for row in numbers(tested, "lambda_vectors") if row["curve"] == "intruder"]
    for curve in ("intruder", *EQUAL):
        for factor in (0.0, 0.5, 1.0, 2.0):
            assert removed[curve, factor] == pytest.approx((1 - factor) * np.linalg.norm(sigmas), rel=1e-4)


@pytest.mark.slow
def test_the_verdict_is_kept_beside_the_answers(tested):
    (path,) = (tested / "analysis" / "interventions").glob("*/verdicts.json")
    (verdict,) = json.loads(path.read_text())
    assert (verdict["label"], verdict["metric"]) == ("lm_loss", "loss")
    rows = [row for row in numbers(tested, "lambda") if (row["of"], row["metric"]) == ("lm_loss", "loss")]
    means = {
        curve: np.mean([row["value"] for row in rows if row["curve"] == curve and row["lambda"] < 1])
        for curve in ("intruder", *EQUAL)
    }
    for one in verdict["against"]:
        other = rows[0]["at_one"] if one["curve"] == "unchanged" else means[one["curve"]]
        assert one["difference"] == pytest.approx(means["intruder"] - other, abs=1e-6)
        assert one["low"] <= one["difference"] <= one["high"]


@pytest.mark.slow
def test_shares_are_those_of_the_definition(tested):
    record = small_runs.read_record(tested)
    kept = record["forgetting"]["lm_loss"]["metrics"]["loss"]
    for row in numbers(tested, "lambda"):
        if (row["of"], row["metric"]) == ("lm_loss", "loss"):
            assert row["base"] == pytest.approx(kept["before"]["value"])
            assert row["at_one"] == pytest.approx(kept["after"]["value"], rel=1e-4)
            if row["percent"] is not None:
                change = (row["value"] - row["at_one"]) / (row["at_one"] - row["base"])
                assert row["percent"] == pytest.approx(100 * change)
        if row["of"] == "task" and row["headline"]:
            assert row["percent"] == pytest.approx(100 * (row["value"] / row["at_one"] - 1))
        if row["lambda"] == 1:
            assert row["delta"] == 0


FORWARD = 14 * 128 * 2.0**-23
"""2e-4: a loss after 14 products of sums of up to 128 float32 numbers, asked again of a model loaded anew."""
SUMMED = 1e-12
"""Means and resamples in double precision of the same stored answers: thousands of terms at 1e-16."""


def assert_kept(before: dict[str, Any], tested: Path, asked_again: tuple[tuple[str, float], ...]) -> None:
    """Require the stored answers exactly; those asked again, and what is computed of answers, but for rounding."""
    for name, rows in before.items():
        now = numbers(tested, name)
        assert len(now) == len(rows)
        for old, new in zip(rows, now, strict=True):
            again = (old["curve"], old["lambda"]) in asked_again
            rel = FORWARD if again else SUMMED if name == "lambda" else 0.0
            for column, value in old.items():
                if again and column.startswith(("delta", "percent", "undefined")):
                    continue  # differences of the values, which are held: a share of almost nothing has no bound
                same = pytest.approx(value, rel=rel, abs=rel) if isinstance(value, float) else value
                assert new[column] == same, column


@pytest.mark.slow
def test_the_same_command_computes_nothing_twice_and_mends_what_is_damaged(tested, monkeypatch, capsys):
    before, asked = {name: numbers(tested, name) for name in ("lambda", "lambda_items")}, []
    ask = Examination.ask

    def counted(self: Examination) -> Any:
        asked.append(1)
        return ask(self)

    monkeypatch.setattr(Examination, "ask", counted)
    settings = Settings(run=str(tested), lambdas=LAMBDAS, k=5, eps=EPS)
    intervene(settings)
    assert not asked
    assert_kept(before, tested, asked_again=())
    (damaged,) = (tested / "analysis" / "interventions").glob("*/intruder-0.5.parquet")
    damaged.write_bytes(damaged.read_bytes()[:100])
    intervene(settings)
    assert len(asked) == 1
    assert_kept(before, tested, asked_again=(("intruder", 0.5),))
    intervene(Settings(run=str(tested), lambdas=(*LAMBDAS, 0.25), k=5, eps=EPS))
    assert len(asked) == 6  # one λ more, on five curves
    assert "of 14 matrices" in capsys.readouterr().out


@pytest.mark.slow
def test_other_settings_stand_beside_in_the_same_tables(tested, capsys):
    before = {row["key"] for row in numbers(tested, "lambda")}
    intervene(Settings(run=str(tested), mode="mitigation", lambdas=(0.5,), k=5, eps=EPS, probes=False))
    after = numbers(tested, "lambda")
    assert before < {row["key"] for row in after}
    assert {row["curve"] for row in after if row["mode"] == "mitigation"} == {"intruders", "shrunk"}
    assert "what was forgotten is not measured" in capsys.readouterr().out


@pytest.mark.slow
def test_mitigations_stand_beside_early_stopping_and_lower_rates(trained, capsys):
    """Of the runs beside it only that of a lower rate and nothing else counts; checkpoints are of step 2, 4 and 6."""
    folder, slower = trained("kept"), trained("kept, slower")
    trained("kept, faster"), trained("kept, other seed")
    intervene(Settings(run=str(folder), mode="mitigation", lambdas=(0.0, 0.5), k=5, eps=EPS, costs=(0.1,)))
    rows = [row for row in numbers(folder, "lambda") if row["headline"]]
    places = {(row["curve"], round(row["lambda"], 6)) for row in rows if row["lambda"] < 1}
    scaled = {(curve, at) for curve in ("intruders", "shrunk") for at in (0.0, 0.5)}
    assert places == scaled | {("stopped", 0.333333), ("stopped", 0.666667), ("lower_rate", 0.1)}
    by_place = {(row["curve"], round(row["lambda"], 2), row["of"]): row["value"] for row in rows}
    record = small_runs.read_record(slower)
    assert by_place["lower_rate", 0.1, "task"] == record["scores"]["after"]["test"]["accuracy"]["value"]
    assert by_place["stopped", 0.67, "lm_loss"] == pytest.approx(loss_of_checkpoint(folder, 4), rel=FORWARD)
    base = next(row["base"] for row in rows if row["of"] == "lm_loss")
    assert by_place["shrunk", 0.0, "lm_loss"] == pytest.approx(base, rel=1e-5)  # the head reads no text
    left = json.loads(next((folder / "analysis").glob("interventions/*/equal_score.json")).read_text())
    assert {one["curve"] for one in left} == {"intruders", "shrunk", "stopped", "lower_rate"}
    out = capsys.readouterr().out
    assert "stopped: λ is the share of the training steps" in out and "forgotten at equal score" in out


def loss_of_checkpoint(folder: Path, step: int) -> float:
    """Return the probe's loss of a kept checkpoint, its adapter put on the base by PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    examination = Examination.of(folder, "test", probes=True)
    examination.measure_base()
    base = AutoModelForCausalLM.from_pretrained(small_runs.read_record(folder)["config"]["model"]["path"])
    with quiet_peft():
        tuned = PeftModel.from_pretrained(base, folder / "checkpoints" / f"checkpoint-{step}")
    examination.model = tuned.merge_and_unload()
    examination.model = tuned.merge_and_unload()
    items = [one for name, some in examination.ask().items() if name.startswith("forgetting/lm_loss/") for one in some]
    return sum(one.loss for one in items) / sum(one.tokens for one in items)


def test_fieller_s_interval_covers_the_truth_as_often_as_it_says():
    """Of 600 draws of correlated normal estimates with a true share of -40 %, about 95 % of the intervals hold it."""
    rng, held = np.random.default_rng(0), 0
    sd = np.array([0.1, 0.12])
    covariance = np.array([[sd[0] ** 2, -0.5 * sd.prod()], [-0.5 * sd.prod(), sd[1] ** 2]])
    spread = float(np.sqrt(covariance.sum()))
    for part, whole in rng.multivariate_normal([-0.4, 1.0], covariance, 600):
        scores = [
            Score(value, value - 1.96 * s, value + 1.96 * s, 50)
            for value, s in ((part, sd[0]), (whole, sd[1]), (part + whole, spread))
        ]
        found = percent(*scores)
        held += found.low <= -40 <= found.high
    assert 0.93 <= held / 600 <= 0.97


def test_a_share_of_what_may_be_zero_is_undefined():
    part, total = Score(0.5, 0.4, 0.6, 9), Score(0.6, 0.3, 0.9, 9)
    found = percent(part, Score(0.1, -0.1, 0.3, 9), total)
    assert found.value is None and found.low is None
    assert found.undefined == "what it is a share of may be zero: +0.1 [-0.1, +0.3]"


# Bad input: one line, before anything is loaded that takes long.

BAD = {
    "": "run=: must be given",
    "run=x lambdas=0,half": "half: must be a valid number",
    "run=x lambdas=,": "lambdas=: needs at least one number",
    "run=x lambdas=nan": "lambdas=nan: must be a finite number",
    "run=x eps=1.5": "eps=1.5: must be above 0 and below 1",
    "run=x k=0": "k=0: must be at least 1",
    "run=x costs=.02,-.1": "costs=-0.1: must be 0 or more",
    "run=x costs=,": "costs=: needs at least one number",
    "run=x mode=tpo": "did you mean top?",
    "run=x lamdas=0": "did you mean lambdas?",
    "run=x split=train": "split=train: no such split",
    "somewhere": "run=somewhere: write run=<id or folder>",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_arguments_are_named(text):
    with pytest.raises(ConfigError) as caught:
        COMMAND.parse(text.split())
    assert BAD[text] in str(caught.value) and "\n" not in str(caught.value)


def refused(**settings: Any) -> str:
    with pytest.raises(HarnessError) as caught:
        intervene(Settings(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_that_is_not_there_or_not_done_is_refused(tmp_path):
    (tmp_path / "runs").mkdir()
    assert "no such run" in refused(run="lora", output_dir=str(tmp_path / "runs"))
    record = {"schema_version": 1, "id": "lora-x", "status": "failed", "reason": "out of memory"}
    write_json(tmp_path / "runs" / "lora-x" / "record.json", record | {"config": {"method": {"name": "lora"}}})
    text = refused(run="lora-x", output_dir=str(tmp_path / "runs"))
    assert text == "run=lora-x: the run is not done but failed: out of memory"


def test_a_run_of_a_search_has_no_weights_to_scale(tmp_path):
    record = {"schema_version": 1, "id": "lora-x", "status": "done", "purpose": "search"}
    write_json(tmp_path / "lora-x" / "record.json", record | {"config": {"method": {"name": "lora"}}})
    assert intervene(Settings(run=str(tmp_path / "lora-x"))) == f"lora-x: n/a: {NO_WEIGHTS}"


@pytest.mark.slow
def test_a_method_without_a_weight_change_is_not_applicable(trained):
    told = intervene(Settings(run=str(trained("prompt"))))
    assert told.endswith("n/a: prompt tuning adds inputs and changes no weight matrix")


@pytest.mark.slow
def test_no_intruder_is_said_and_nothing_is_written(trained):
    text = refused(run=str(trained("full")), eps=0.05, k=2)
    assert "no intruder among the top 2 of 14 matrices at eps=0.05: there is nothing to scale" in text
    assert not (trained("full") / "analysis" / "lambda.parquet").exists()


def test_settings_that_do_not_fit_the_run_are_refused(trained):
    assert "is larger than model.layers.0.self_attn.k_proj.weight" in refused(run=str(trained("lora")), k=17)
    assert "was not quantised" in refused(run=str(trained("lora")), reference="dequantised")


def test_the_command_line_exits_with_one_line(tmp_path):
    done = call(COMMAND.main, "run=none", f"output_dir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr == f"interventions: run=none: no such run in {tmp_path}; it holds none\n"
