"""PEFT's result files as rows, and runs as result files: each value against the file, their reader's casts, back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import call
from made_results import NOTHING, TEMPLATE, result, write_result
from made_runs import Made, make_run

from analysis.errors import AnalysisError
from analysis.exchange.peft_suite import FILE, row, rows
from analysis.exchange.peft_suite.exporting import export, export_runs
from analysis.exchange.peft_suite.importing import import_results
from analysis.peft_suite import COMMAND
from analysis.records import ROW, read_runs, record
from analysis.views.drawing.page import pages
from harness.errors import RecordError

pytestmark = pytest.mark.usefixtures("quick")

READ = {
    "run_info.experiment_name": "string",
    "run_info.train_config.model_id": "string",
    "run_info.total_time": float,
    "run_info.peft_branch": "string",
    "run_info.created_at": "string",
    "train_info.accelerator_memory_reserved_avg": int,
    "train_info.accelerator_memory_max": int,
    "train_info.accelerator_memory_reserved_99th": int,
    "train_info.train_time": float,
    "train_info.file_size": int,
    "train_info.num_trainable_params": int,
    "test.test accuracy": float,
    "test.train loss": float,
    "test.train samples": int,
    "test.train total tokens": int,
    **{f"meta_info.package_info.{name}-version": "string" for name in ("peft", "transformers", "datasets", "torch")},
    "meta_info.package_info.bitsandbytes-version": "string",
    "meta_info.system_info": "string",
}
"""What PEFT's ``processing.py`` takes out of a result by key, and the type it casts a column of it to."""


def at(tree: Any, path: str) -> Any:
    """Return what stands at a path; a missing key raises, as in PEFT's reader."""
    for key in path.split("."):
        tree = tree[key]
    return tree


def imported(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Import one result and return its row."""
    done = import_results(write_result(tmp_path / "results", **changes), tmp_path / "runs")
    return row(done.new[0])


def without(tree: Any, path: str) -> dict[str, Any]:
    """Return a copy of a tree without what stands at a path."""
    copy = json.loads(json.dumps(tree))
    *parents, last = path.split(".")
    branch = copy
    for key in parents:
        branch = branch[key]
    del branch[last]
    return copy  # type: ignore[no-any-return]


def all_paths(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted path of every key."""
    here = [f"{prefix}{key}" for key in tree]
    return here + [p for k, v in tree.items() if isinstance(v, dict) for p in all_paths(v, f"{prefix}{k}.")]


@pytest.mark.parametrize(
    ("commit", "version", "named"),
    [
        ("d787f51bbaa196862733ed53c1b7def75b49ab29", "0.19.2.dev0", "forgetting (PEFT suite)"),
        ("194cb8feb21c6623f61f30305e20fdbe2b842c10", "0.19.2.dev0", "forgetting (PEFT suite)"),
        ("505e6fd68216cf548d1ab76a42a124bd3f5c1a2b", "0.20.1.dev0", "forgetting (PEFT suite)"),
        (None, "0.21.2", "forgetting (PEFT suite)"),
        ("8be1a16f5e06ca5e197d2af74bdfc5b3c8072d26", "0.18.2.dev0", "forgetting (PEFT suite, no next-token shift)"),
        (None, "0.19.1", "forgetting (PEFT suite, no next-token shift)"),
        ("0123456789abcdef0123456789abcdef01234567", "0.19.2.dev0", "forgetting (PEFT suite, of which definition?)"),
        (None, None, "forgetting (PEFT suite, of which definition?)"),
        (None, "of my own", "forgetting (PEFT suite, of which definition?)"),
    ],
)
def test_their_forgetting_before_and_after_its_definition_changed_has_two_names(
    tmp_path: Path, commit: str | None, version: str | None, named: str
) -> None:
    """PEFT's pull request 3419, commit d787f51b of 2026-07-14, between versions 0.19.1 and 0.20.0."""
    packages = {"peft-commit-hash": commit, "peft-version": version}
    changes = {f"meta_info__package_info__{name}": value for name, value in packages.items()}
    cells = imported(tmp_path, **changes)
    assert cells["forgetting"] == 0.05 and cells["forgetting_name"] == named


def test_a_result_is_a_row_of_our_columns(tmp_path: Path) -> None:
    cells = imported(tmp_path)
    assert cells["foreign"] is True and cells["status"] == "done"
    named = {"method": "lora", "task": "metamath+gsm8k", "model": "meta-llama/Llama-3.2-3B", "seed": 0, "rank": 32}
    scored = {"metric": "accuracy", "score": 0.4784, "validation": 0.36, "forgetting": 0.05, "scale": 2.0}
    cost = {"trainable": 9_175_040, "total": 3_221_924_864, "saved_bytes": 36_715_216, "tokens": 360_000, "steps": 500}
    assert {name: cells[name] for name in named | scored | cost} == named | scored | cost
    assert cells["train_seconds"] == 50.0, "the intervals' train time, not train_time with the test in it"
    assert cells["tokens_per_second"] == pytest.approx(360_000 / 50)
    assert cells["version.peft"] == "0.19.2.dev0" and cells["commit"] == "d787f51b"
    assert {name for name in cells if "." not in name} <= set(ROW)


def test_every_value_of_the_file_is_kept(tmp_path: Path) -> None:
    cells = imported(tmp_path, run_info__new_field={"depth": [1, 2], "empty": {}}, train_info__note="한국어 <b>")
    kept = {name.removeprefix("foreign."): value for name, value in cells.items() if name.startswith("foreign.")}
    assert kept["run_info.new_field.depth"] == "[1, 2]" and kept["run_info.new_field.empty"] == "{}"
    assert kept["train_info.note"] == "한국어 <b>"
    assert json.loads(kept["train_info.metrics"]) == TEMPLATE["train_info"]["metrics"]
    assert kept["test.forgetting"] == 0.05 and "run_info.train_config.attn_implementation" not in kept


@pytest.mark.parametrize(
    ("gone", "column"),
    [
        ("run_info__train_config__seed", "seed"),
        ("train_info__num_total_params", "trainable_share"),
        ("train_info__accelerator_memory_max", "train_peak_bytes"),
        ("meta_info__dataset_info", "task"),
        ("run_info__experiment_name", "method"),
        ("train_info__file_size", "saved_bytes"),
        ("train_info__metrics", "score"),
    ],
)
def test_what_is_missing_stays_missing(tmp_path: Path, gone: str, column: str) -> None:
    cells = imported(tmp_path, **{gone: NOTHING})
    assert column not in cells
    assert read_runs(tmp_path / "runs").table[column].isna().all()


def test_never_a_number_that_the_file_does_not_have(tmp_path: Path) -> None:
    cells = imported(tmp_path)
    for column in ("score_low", "score_high", "base", "test_items", "forgetting_low", "intruders", "dirty", "schema"):
        assert column not in cells
    assert "saved_bytes" not in imported(tmp_path / "b", train_info__file_size=99_999_999), "their stand-in, no size"


@pytest.mark.parametrize("value", ["32", [32], {"x": 1}, "yes", float("nan")])
def test_a_value_of_another_type_is_missing_and_kept(tmp_path: Path, value: Any) -> None:
    changes = {"run_info__peft_config__r": value, "train_info__num_trainable_params": value}
    cells = imported(tmp_path, **changes)
    assert not {"rank", "scale", "trainable", "trainable_share"} & set(cells)
    table = read_runs(tmp_path / "runs").table
    assert table["rank"].isna().all() and "foreign.train_info.status" in table


def test_scale_by_the_definition_of_each(tmp_path: Path) -> None:
    assert imported(tmp_path, run_info__peft_config__use_rslora=True)["scale"] == pytest.approx(64 / 32**0.5)
    assert "scale" not in imported(tmp_path / "b", run_info__peft_config__rank_pattern={"q_proj": 4})
    assert "scale" not in imported(tmp_path / "c", run_info__peft_config=None)


def test_runs_that_did_not_succeed_stay_in_the_table(tmp_path: Path) -> None:
    changes = {"train_info__status": "canceled", "run_info__error_msg": "CUDA out of memory"}
    metrics = TEMPLATE["train_info"]["metrics"][:1]
    cells = imported(tmp_path, **changes, train_info__metrics=metrics)
    assert (cells["status"], cells["reason"]) == ("failed", "canceled: CUDA out of memory")
    assert "score" not in cells and cells["steps"] == 250


def test_copies_are_byte_for_byte_and_made_once(tmp_path: Path) -> None:
    source = write_result(tmp_path / "results")
    first = import_results(source.parent, tmp_path / "runs")
    assert [path.name for path in first.new] == [source.stem]
    assert (first.new[0] / FILE).read_bytes() == source.read_bytes()
    again = import_results(source.parent, tmp_path / "runs")
    assert (again.new, again.known) == ([], first.new)


def test_another_result_of_the_same_name_replaces_nothing(tmp_path: Path) -> None:
    for score in (1.0, 2.0, 1.0):
        import_results(write_result(tmp_path / "results", run_info__total_time=score), tmp_path / "runs")
    found = read_runs(tmp_path / "runs").table
    assert sorted(found["foreign.run_info.total_time"]) == [1.0, 2.0]
    assert found["id"].is_unique


def test_one_damaged_file_costs_one_line(tmp_path: Path) -> None:
    results = write_result(tmp_path / "results").parent
    (results / "cut.json").write_text('{"run_info": {', encoding="utf-8")
    (results / "other.json").write_text('{"a": 1}', encoding="utf-8")
    (results / "list.json").write_text("[1]", encoding="utf-8")
    (results / "bytes.json").write_bytes(b"\xff\xfe\x00")
    write_result(results, "odd", train_info__status="done?")
    done = import_results(results, tmp_path / "runs")
    assert len(done.new) == 1 and len(done.problems) == 5
    assert all(line.count("\n") == 0 and ".json: " in line for line in done.problems)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_nothing_to_import_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnalysisError, match=rf"{name}: there is no"):
        import_results(tmp_path / name, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_foreign_rows_stand_beside_ones_own(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "method=lora", "rank=4")
    import_results(write_result(tmp_path / "results"), tmp_path / "runs")
    table = read_runs(tmp_path / "runs").table
    assert sorted(table["foreign"].tolist()) == [False, True]
    assert table["label"].is_unique and table.loc[table["foreign"], "score"].item() == 0.4784
    assert rows(tmp_path / "runs/foreign/lora--llama-3.2-3B-rank32").loc[0, "score"] == 0.4784


def test_foreign_rows_are_in_the_table_and_in_no_figure(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "method=lora", "rank=4")
    import_results(write_result(tmp_path / "results"), tmp_path / "runs")
    table = read_runs(tmp_path / "runs").table
    assert len(table) == 2
    assert [page.table["foreign"].tolist() for page in pages(table)] == [[False]]


def test_a_copy_damaged_later_is_a_problem_and_the_rest_stays(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "method=lora", "rank=4")
    folder = import_results(write_result(tmp_path / "results"), tmp_path / "runs").new[0]
    (folder / FILE).write_text("{", encoding="utf-8")
    with pytest.raises(RecordError, match="damaged"):
        row(folder)
    found = read_runs(tmp_path / "runs")
    assert len(found.table) == 1 and FILE in found.problems[0]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return the folder of a run of our own."""
    return make_run(tmp_path / "own", "method=lora", "rank=4", made=Made(accuracy=0.8, validation=0.75))


def test_an_export_is_what_their_reader_takes(own: Path) -> None:
    exported = export(own)
    assert set(TEMPLATE) < set(exported)
    exported["test"] = exported["train_info"]["metrics"][-1]
    frame = pd.DataFrame([{path: at(exported, path) for path in READ}]).astype(READ)
    assert frame["test.test accuracy"].item() == 0.8
    assert pd.to_datetime(frame["run_info.created_at"]).dt.tz is not None
    assert exported["train_info"]["status"] == "success"
    assert exported["run_info"]["peft_config"]["peft_type"] == "LORA"


def test_an_export_has_the_keys_of_their_schema(own: Path) -> None:
    exported = export(own)
    for part in ("run_info", "train_info", "meta_info"):
        assert set(TEMPLATE[part]) <= set(exported[part])
    wanted = set(TEMPLATE["run_info"]["train_config"])
    assert wanted <= set(exported["run_info"]["train_config"])
    assert "{query}" in exported["run_info"]["train_config"]["query_template"]


@pytest.mark.parametrize("method", ["lora", "rslora", "full", "bitfit"])
def test_there_and_back(tmp_path: Path, method: str) -> None:
    folder = make_run(tmp_path / "own", f"method={method}", "rank=4", seed=3, made=Made(accuracy=0.8, validation=0.75))
    (path,), problems = export_runs([tmp_path / "own"], tmp_path / "out")
    assert problems == [] and path.name == f"{method}--{folder.name}.json"
    import_results(path, tmp_path / "runs")
    mine, theirs = (read_runs(runs).table.iloc[0] for runs in (tmp_path / "own", tmp_path / "runs"))
    same = "model task method seed learning_rate scale metric score validation trainable total saved_bytes tokens steps"
    for column in (*same.split(), "tokens_per_second", "train_seconds", "started", "version.peft", "version.torch"):
        assert theirs[column] == mine[column] or (pd.isna(theirs[column]) and pd.isna(mine[column])), column
    assert bool(theirs["foreign"]) and not bool(mine["foreign"])


def test_only_full_fine_tuning_has_no_peft_config(tmp_path: Path) -> None:
    total = record(make_run(tmp_path, "method=full"))["parameters"]["total"]
    full = make_run(tmp_path, "method=full", made=Made(trainable=total))
    bitfit = make_run(tmp_path, "method=bitfit")
    assert export(full)["run_info"]["peft_config"] is None
    assert export(bitfit)["run_info"]["peft_config"]["peft_type"] == "BITFIT"


def test_forgetting_by_our_definition_is_not_called_theirs(own: Path) -> None:
    exported = export(own)
    assert all("forgetting" not in entry for entry in exported["train_info"]["metrics"])
    assert exported["peft_harness"]["forgetting"]["lm_loss"]["status"] == "measured"


def test_gpu_memory_is_bytes_and_a_bound_is_called_one(tmp_path: Path) -> None:
    peaks = {"train": {"resident_gib": 1.0, "cuda_reserved_gib": 2.0}, "evaluate": {"cuda_reserved_gib": 3.0}}
    exported = export(make_run(tmp_path, "method=lora", memory=peaks))
    info = exported["train_info"]
    assert (info["accelerator_memory_max"], info["accelerator_memory_reserved_avg"]) == (3 * 2**30, 2 * 2**30)
    assert "upper bound" in exported["peft_harness"]["notes"][0]
    assert export(make_run(tmp_path / "cpu", "method=lora"))["train_info"]["accelerator_memory_max"] == 0


def test_runs_without_a_place_in_the_schema_are_left_out_in_a_line(tmp_path: Path) -> None:
    make_run(tmp_path / "own", "method=lora", "rank=2", made=Made(status="failed", reason="loss is NaN"))
    make_run(tmp_path / "own", "method=lora", "rank=4", metric="macro_f1")
    make_run(tmp_path / "own", "method=lora", "rank=8")
    import_results(write_result(tmp_path / "results"), tmp_path / "own")
    written, problems = export_runs([tmp_path / "own"], tmp_path / "out")
    assert len(written) == 1 and len(problems) == 2
    assert any("failed and not done" in line for line in problems) and any("macro_f1" in line for line in problems)


@pytest.mark.slow
def test_the_command_line_imports_and_exports(tmp_path: Path, own: Path) -> None:
    write_result(tmp_path / "results")
    taken = call(COMMAND.main, f"results={tmp_path / 'results'}", tmp_path / "runs")
    assert taken.returncode == 0 and "accuracy 0.478" in taken.stdout and taken.stderr == ""
    given = call(COMMAND.main, own, f"out={tmp_path / 'out'}")
    assert given.returncode == 0 and given.stdout.endswith("1 exported, 0 left out\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("import", "x"), "runs=import: write results=<folder> runs/"),
        (("export", "."), "runs=export: write runs/ out=<folder>"),
        (("results=/nowhere",), "there is no such file or folder"),
        (("result=/nowhere",), "did you mean results?"),
        ((".",), "give either results= to read, or out= to write"),
        (("results=.", ".", "tests"), "give the one folder"),
        (("out=x",), "give run folders"),
        ((".", "--out", "x"), "--out=: write out=<value>"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(arguments: tuple[str, ...], says: str) -> None:
    ended = call(COMMAND.main, *arguments)
    assert ended.returncode == 1 and says in ended.stderr and ended.stderr.count("\n") == 1


def test_any_key_may_be_missing(tmp_path: Path) -> None:
    for path in all_paths(TEMPLATE):
        if path in ("run_info", "train_info", "meta_info", "train_info.status"):
            continue
        (tmp_path / FILE).write_text(json.dumps(without(result(), path)), encoding="utf-8")
        assert row(tmp_path)["foreign"] is True, path
