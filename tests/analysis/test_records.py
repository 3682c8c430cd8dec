"""Reading run folders: the rows are what the records say, what is missing stays missing, what is damaged is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_runs
import numpy as np
import pandas as pd
import pytest
import small_runs
from made_runs import Made, make_old, make_run, make_search_run, make_sweep, search_record

from analysis.errors import AnalysisError
from analysis.records import ROW, history, intruder_tables, items, read_runs, record, samples
from analysis.spectra.intruders.tables import SCHEMAS
from harness.execution.execute import execute
from harness.forgetting.base import PROBES
from harness.storage.record import read_record

pytestmark = pytest.mark.usefixtures("quick")


def keys(tree: Any, but: tuple[str, ...] = ()) -> Any:
    """Return the names in a tree of dictionaries, without the values; series of numbers count as one."""
    if not isinstance(tree, dict):
        return None
    return {name: None if name in but else keys(value, but) for name, value in tree.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_folder: Path) -> Path:
    """Return a run that was really trained, with a probe of the loss and evaluations on the way."""
    overrides = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    chosen = ["forgetting=default", "forgetting.documents=2", "forgetting.every=2", "train.eval_steps=2", "rank=4"]
    texts = [f"forgetting.texts.{name}.path={data_folder / 'text.parquet'}" for name in ("openwebtext", "wikipedia")]
    columns = [f"forgetting.texts.{name}.column=text" for name in ("openwebtext", "wikipedia")]
    config = small_runs.configure(tmp_path_factory.mktemp("true"), *overrides, *chosen, *texts, *columns)
    probes = {"lm_loss": PROBES["lm_loss"]()}
    config = replace(config, forgetting=replace(config.forgetting, probes=probes))
    execute(config)
    return small_runs.folder_of(config)


@pytest.mark.slow
def test_made_runs_have_the_keys_of_a_trained_one(trained: Path, tmp_path: Path) -> None:
    every = ("train.eval_steps=2", "forgetting.every=2")
    made = make_run(tmp_path, "method=lora", "rank=4", "forgetting=default", *every)
    true, false = read_record(trained), read_record(made)
    assert true["status"] == false["status"] == "done", true["reason"]
    free = ("config", "identity", "forgetting", "model", "notes")  # these hold the names of files, labels and probes
    assert keys(false, free) == keys(true, free)
    held = ("labels", "columns", "forgetting", "architecture")  # a preset has one, a folder brings its own
    assert keys(false["config"], held) == keys(true["config"], held)
    entry = false["forgetting"]["lm_loss"]
    assert set(entry) == set(true["forgetting"]["lm_loss"])
    assert keys(entry["metrics"]["made/loss"]) in [keys(m) for m in true["forgetting"]["lm_loss"]["metrics"].values()]
    for read in (items, history, intruder_tables):
        assert [*read(made)] == [*read(trained)] or read is history, read
    assert {c for c in history(made) if not c.startswith("forgetting/")} == {
        c for c in history(trained) if not c.startswith("forgetting/")
    }
    assert set(samples(made)[0]) == set(samples(trained)[0])
    assert items(made).dtypes.to_dict() == items(trained).dtypes.to_dict()


def test_a_trained_run_reads_as_its_record_says(trained: Path) -> None:
    row, truth = read_runs(trained).table.iloc[0], read_record(trained)
    score = truth["scores"]["after"]["test"]["accuracy"]
    assert (row["score"], row["score_low"], row["score_high"]) == (score["value"], score["low"], score["high"])
    assert row["base"] == truth["scores"]["before"]["test"]["accuracy"]["value"]
    assert row["validation"] == truth["scores"]["after"]["validation"]["accuracy"]["value"]
    assert (row["label"], row["rank"], row["scale"], row["seed"]) == ("lora r4", 4, 2.0, 0)
    assert row["trainable_share"] == truth["parameters"]["trainable"] / truth["parameters"]["total"]
    assert row["train_peak_bytes"] == truth["memory"]["train"]["resident_gib"] * 2**30
    headline = truth["forgetting"]["lm_loss"]["headline"]
    assert row["forgetting"] == truth["forgetting"]["lm_loss"]["metrics"][headline]["delta"]["value"]
    assert row["forgetting_name"] == f"lm_loss {headline}"
    assert (
        row[f"probe.lm_loss.{headline}.after"]
        == (truth["forgetting"]["lm_loss"]["metrics"][headline]["after"]["value"])
    )
    assert row["version.torch"] == truth["versions"]["torch"]
    assert row["config.train.per_device_train_batch_size"] == 4
    assert pd.isna(row["intruders"])
    assert not row["foreign"]


def test_what_a_run_computed_on_and_how_stands_in_its_row(trained: Path) -> None:
    row, runtime = read_runs(trained).table.iloc[0], read_record(trained)["runtime"]
    assert row["precision"] == "trained in float32, computed in float32"
    for column, name in (("device_kind", "device"), ("threads", "threads"), ("processes", "processes")):
        assert row[column] == runtime[name]
    assert (row["kernels"], row["optimizer"], row["schema"]) == (runtime["kernels"], "adamw_torch", 2)
    assert row["environment"] == (" ".join(f"{k}={v}" for k, v in sorted(runtime["environment"].items())) or "none set")
    assert pd.isna(row["mixed"]) and row["restarts"] == 0


def test_precision_and_paged_memory_are_the_records(tmp_path: Path) -> None:
    runtime = {"precision": {"weights": "bfloat16", "trained": "float32", "compute": "bfloat16"}}
    gpu = {"train": {"resident_gib": 1.0, "cuda_allocated_gib": 2.0, "cuda_paged_gib": 0.5}}
    make_run(tmp_path, runtime=runtime, memory=gpu, mixed=["torch 2.12.0 → 2.13.0", "threads 2 → 4"])
    row = read_runs(tmp_path).table.iloc[0]
    assert row["precision"] == "trained in float32, computed in bfloat16"
    assert (row["train_peak_bytes"], row["train_paged_bytes"]) == (2 * 2**30, 2**29)
    assert row["mixed"] == "torch 2.12.0 → 2.13.0, threads 2 → 4"


def test_a_record_of_schema_1_reads_and_knows_no_more_than_it_says(tmp_path: Path) -> None:
    make_old(make_run(tmp_path))
    row = read_runs(tmp_path).table.iloc[0]
    unknown = ["precision", "precision_trained", "processes", "kernels", "environment", "mixed", "restarts"]
    assert row[unknown].isna().all()
    assert row["schema"] == 1 and row["score"] == 0.8 and row["threads"] >= 1


def test_the_score_is_the_mean_of_the_items(trained: Path) -> None:
    found = items(trained)
    after = found[(found["phase"] == "after") & (found["split"] == "test")]
    assert after["score"].mean() == pytest.approx(read_runs(trained).table["score"][0])


def test_scales_are_those_of_the_papers(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora", "rslora", "full"), ranks=(4, 16, 64), seeds=(0,))
    table = read_runs(tmp_path).table.set_index("label")
    assert table.loc[["lora r4", "lora r16", "lora r64"], "scale"].tolist() == [2.0, 2.0, 2.0]
    assert table.loc[["rslora r4", "rslora r16", "rslora r64"], "scale"].tolist() == [4.0, 2.0, 1.0]
    assert pd.isna(table.loc["full", "scale"])
    assert pd.isna(table.loc["full", "rank"])


def test_intruder_tables_are_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path, made=Made(intruders=14))
    row = read_runs(tmp_path).table.iloc[0]
    counted = row[["intruders", "intruders_clustered", "intruders_v", "intruders_null_dense", "intruders_null_rank"]]
    assert counted.tolist() == [14, 14, 14, 0, 0]
    beside = row[["intruders_excess", "intruders_null", "intruders_null_low", "intruders_null_high"]]
    assert beside.tolist() == pytest.approx([14, 0, 0, 0.3])  # 19 draws without an intruder, one with 6
    assert row["intruders_p"] == pytest.approx(1 / 21) and pd.isna(row["intruders_floor"])
    assert (row["intruders_k"], row["intruders_eps"]) == (10, 0.5)
    assert row["relative_change"] == pytest.approx(0.05)
    assert row["effective_rank"] == pytest.approx(np.mean([4, 5, 6, 7, 8, 9]))
    assert set(intruder_tables(folder)) == set(SCHEMAS)


def test_a_count_that_random_changes_reach_is_no_excess(tmp_path: Path) -> None:
    make_run(tmp_path, made=Made(intruders=6))
    row = read_runs(tmp_path).table.iloc[0]
    assert row["intruders_p"] == pytest.approx(2 / 21)  # one draw of 20 has 6 too


def test_another_threshold_is_the_headlines(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    made_runs.write_intruders(folder, 25, k=8, eps=0.37)
    row = read_runs(tmp_path).table.iloc[0]
    assert (row["intruders"], row["intruders_k"], row["intruders_eps"]) == (25, 8, 0.37)
    marks = intruder_tables(folder)["vectors"].query("control == 'none'")["intruder_u"]
    assert marks.sum() == row["intruders"]


def test_of_several_steps_the_end_of_training_counts(tmp_path: Path) -> None:
    folder = make_run(tmp_path, made=Made(intruders=5))
    path = folder / "analysis" / "intruders.json"
    last = json.loads(path.read_text(encoding="utf-8"))
    for steps, expected in (((10, 20, None), 5), ((10, 20), 3)):
        early = [entry | {"step": step, "intruders_u": 3} for entry in last for step in steps if step is not None]
        path.write_text(json.dumps(early + (last if None in steps else [])), encoding="utf-8")
        assert read_runs(tmp_path).table["intruders"][0] == expected


def test_every_column_is_there_whatever_the_runs(tmp_path: Path) -> None:
    make_run(tmp_path, made=Made(status="failed", reason="out of memory"))
    table = read_runs(tmp_path).table
    assert [*table.columns[: len(ROW)]] == [*ROW]
    row = table.iloc[0]
    assert row["reason"] == "out of memory"
    assert row[["score", "base", "tokens", "forgetting", "intruders", "train_seconds"]].isna().all()
    assert len(read_runs(tmp_path).done()) == 0


def test_missing_is_never_zero(tmp_path: Path) -> None:
    folder = make_run(tmp_path, made=Made(forgetting=None))
    old = read_record(folder)
    for name in ("tokens", "memory", "parameters", "forgetting", "hashes", "commit"):
        del old[name]
    (folder / "record.json").write_text(json.dumps(old), encoding="utf-8")
    row = read_runs(folder).table.iloc[0]
    assert row[["tokens", "train_peak_bytes", "trainable", "trainable_share", "forgetting", "commit"]].isna().all()
    assert row["score"] == 0.8


def test_runs_are_found_at_any_depth_and_once(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a" / "b", seed=1)
    make_run(tmp_path / "c", seed=2)
    (tmp_path / ".base" / "x").mkdir(parents=True)
    (tmp_path / ".base" / "x" / "items.parquet").write_bytes(b"")
    runs = read_runs(tmp_path, one, tmp_path / "c")
    assert sorted(runs.table["seed"]) == [1, 2]
    assert runs.problems == ()


def test_unreadable_folders_are_problems_and_the_rest_is_read(tmp_path: Path) -> None:
    sound = make_run(tmp_path, seed=0)
    text = (sound / "record.json").read_text(encoding="utf-8")
    wrong = {
        "half": text[: len(text) // 2],
        "newer": json.dumps(json.loads(text) | {"schema_version": 99}),
        "list": "[]",
        "typed": json.dumps(json.loads(text) | {"tokens": "many"}),
        "noscores": json.dumps(json.loads(text) | {"scores": {}}),
    }
    for name, content in wrong.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(content, encoding="utf-8")
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "history.jsonl").write_text("", encoding="utf-8")
    runs = read_runs(tmp_path)
    assert runs.table["id"].tolist() == [sound.name]
    assert len(runs.problems) == 6
    assert all("\n" not in problem for problem in runs.problems)
    said = " ".join(runs.problems)
    for words in (
        "half/record.json: damaged",
        "schema 99 is newer",
        "lost/record.json: no record",
        "its tokens is 'many'",
        "it is done but has no scores",
    ):
        assert words in said, said


def test_damaged_tables_beside_a_record_leave_the_record(tmp_path: Path) -> None:
    folder = make_run(tmp_path, made=Made(intruders=3))
    (folder / "analysis" / "intruders.json").write_bytes(b"[{")
    (folder / "items.parquet").write_bytes(b"")
    runs = read_runs(tmp_path)
    assert runs.table["score"].tolist() == [0.8]
    assert pd.isna(runs.table["intruders"][0])
    assert "intruders.json: damaged" in runs.problems[0]
    with pytest.raises(AnalysisError, match=r"items\.parquet: damaged"):
        items(folder)


def test_a_halved_last_line_is_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 9, "lo')
    assert history(folder)["step"].tolist() == [*range(1, made_runs.STEPS + 1)]


def test_nothing_to_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="holds no run"):
        read_runs(tmp_path)
    with pytest.raises(AnalysisError, match="there is no such folder"):
        read_runs(tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.json").write_text("{", encoding="utf-8")
    with pytest.raises(AnalysisError, match=r"no run can be read: .*damaged"):
        read_runs(tmp_path)


def test_a_running_run_says_what_to_do(tmp_path: Path) -> None:
    make_run(tmp_path, made=Made(status="running"))
    assert "the same command resumes it" in read_runs(tmp_path).table["reason"][0]


def test_names_of_any_script_come_through(tmp_path: Path) -> None:
    name = 'quotes "and" <b>질문 유형</b>'
    folder = make_run(tmp_path / "실험", made=Made(sample=name))
    changed = record(folder)
    changed["config"]["task"]["dataset"] = name
    (folder / "record.json").write_text(json.dumps(changed, ensure_ascii=False), encoding="utf-8")
    assert read_runs(tmp_path).table["task"].tolist() == [name]
    assert samples(folder)[0]["input"] == name


def test_runs_of_a_search_are_no_rows(tmp_path: Path) -> None:
    made = make_run(tmp_path, "method=lora", rate=1e-3, search=search_record({1e-3: 0.7, 1e-2: None}, 1e-3))
    for rate in (1e-3, 1e-2):
        make_search_run(tmp_path, "method=lora", rate=rate)
    failed = Made(status="failed", reason="the loss is nan")
    make_search_run(tmp_path, "method=lora", rate=1.0, made=failed)
    runs = read_runs(tmp_path)
    assert (runs.table["id"].tolist(), runs.searches, runs.problems) == ([made.name], 3, ())


def test_a_folder_of_searches_alone_is_one_line(tmp_path: Path) -> None:
    make_search_run(tmp_path, "method=lora", rate=1e-3)
    with pytest.raises(AnalysisError, match=r"runs of a learning-rate search alone \(1\), no result") as error:
        read_runs(tmp_path)
    assert "\n" not in str(error.value)


def test_a_row_says_how_a_search_found_its_rate(tmp_path: Path) -> None:
    search = search_record({1e-3: 0.7, 1e-2: None, 1e-4: 0.6}, 1e-3, warning="a smaller rate may be better")
    make_run(tmp_path, "method=lora", rate=1e-3, search=search)
    make_run(tmp_path, "method=lora", rate=1e-4, search=search)  # trained at another rate than the search's
    make_old(make_run(tmp_path, "method=full"))
    runs = read_runs(tmp_path).table.set_index(["method", "learning_rate"]).sort_index()
    row = runs.loc[("lora", 1e-3)]
    assert (row["searched"], row["rates_tried"], row["search_warning"]) == (True, 3, True)
    assert (row["search_rates"], row["search_why"]) == ("0.0001, 0.001, 0.01", "a smaller rate may be better")
    others = runs.drop(index=("lora", 1e-3))
    assert not others["searched"].any() and others["rates_tried"].isna().all()


@pytest.mark.parametrize(
    ("record", "diverged"),
    [
        ({"diverged": True, "reason": "lost"}, True),
        ({"reason": "w is not finite after step 3; lower train.learning_rate or use fp32"}, True),
        ({"reason": "no space left on the disk"}, False),
    ],
)
def test_a_run_that_diverged_says_so_also_where_its_record_is_older(
    tmp_path: Path, record: dict[str, Any], diverged: bool
) -> None:
    make_run(tmp_path, made=Made(status="failed"), **record)
    assert read_runs(tmp_path).table["diverged"].tolist() == [diverged]
