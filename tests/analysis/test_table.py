"""The command: filtered, grouped over seeds, written in four formats, and every wrong input one clear line."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_runs import Made, make_run, make_sweep

from analysis.effects.comparisons import UNSEARCHED
from analysis.records import read_runs
from analysis.table import COMMAND
from analysis.views.table.filtering import chosen
from analysis.views.table.grouped import grouped
from analysis.views.table.writing import latex, markdown, shown
from harness.errors import ConfigError, HarnessError
from harness.storage.record import read_record

pytestmark = pytest.mark.usefixtures("quick")
TABLES = ("table", "comparisons", "comparisons_forgetting", "comparisons_gain_per_gib", "pareto")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs the command and returns its exit code and everything it printed."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["table", *map(str, arguments)])
        try:
            COMMAND.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_rows_are_means_over_seeds_with_their_interval(tmp_path: Path) -> None:
    scores = (0.7, 0.8, 0.75)
    make_sweep(tmp_path, ("lora",), made=lambda m, r, rate, seed: Made(scores[seed], seconds=10 + seed))
    (row,) = grouped(read_runs(tmp_path).table).rows.itertuples()
    assert (row.configuration, row.seeds, row.runs, row.status) == ("lora r8", 3, 3, "done")
    assert row.score == pytest.approx(0.75)
    assert row.score_low < 0.7 and row.score_high > 0.8  # three seeds: wider than their range
    assert row.score_sd == pytest.approx(0.05)
    assert row.train_seconds == 11


def test_a_single_run_keeps_the_interval_of_its_record(tmp_path: Path) -> None:
    make_run(tmp_path)
    table = read_runs(tmp_path).table
    (row,) = grouped(table).rows.itertuples()
    assert (row.score_low, row.score_high) == (table["score_low"][0], table["score_high"][0])
    assert (row.forgetting_low, row.forgetting_high) == (table["forgetting_low"][0], table["forgetting_high"][0])


def test_intervals_stay_within_what_the_metric_can_be(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), seeds=(0, 1), made=lambda m, r, rate, seed: Made(0.99 - 0.1 * seed))
    (row,) = grouped(read_runs(tmp_path).table).rows.itertuples()
    assert row.score_high == 1.0


def test_failed_and_not_applicable_runs_stay_in_sight(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), seeds=(0, 1))
    make_run(tmp_path, "method=lora", "rank=8", rate=1e-3, seed=2, made=Made(status="failed", reason="out of memory"))
    make_run(tmp_path, "method=bitfit", made=Made(status="not_applicable", reason="no biases"))
    rows = grouped(read_runs(tmp_path).table).rows.set_index("method")
    assert rows.loc["lora", ["runs", "seeds", "status"]].tolist() == [3, 2, "done"]
    assert rows.loc["lora", "reason"] == "1 of 3 failed: out of memory"
    assert rows.loc["bitfit", "status"] == "not_applicable"
    assert pd.isna(rows.loc["bitfit", "score"])
    text = shown(rows.reset_index())
    assert "n/a" in set(text["score [95 %]"])
    assert "not_applicable: no biases" in set(text["note"])


def test_grouping_by_fewer_keys_says_what_it_averages(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), ranks=(8, 16))
    found = grouped(read_runs(tmp_path).table, ["method"])
    assert found.rows["runs"].tolist() == [6]
    assert "averages 2 configurations, not seeds alone: lora r8 lr=0.001, lora r16 lr=0.001" in found.problems[0]


@pytest.mark.slow
def test_any_configuration_key_filters_and_groups(tmp_path: Path) -> None:
    for steps in (10, 20):
        make_sweep(tmp_path, overrides=(f"train.max_steps={steps}",))
    table = read_runs(tmp_path).table
    assert len(chosen(table, ("train.max_steps=10", "method=lora|full"))) == 6
    assert set(chosen(table, ("method=lora", "learning_rate=1e-3"))["label"]) == {"lora r8"}
    assert set(chosen(table, ("rank=none",))["method"]) == {"full"}
    rows = grouped(table, ["config.train.max_steps", "method"]).rows
    assert sorted(rows["config.train.max_steps"]) == [10, 10, 20, 20]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("methd=lora", "did you mean method"),
        ("train.max_step=4", "did you mean train.max_steps"),
        ("method=lroa", "no run has it; there are full, lora"),
    ],
)
def test_a_filter_that_fits_nothing_says_what_there_is(tmp_path: Path, condition: str, words: str) -> None:
    make_sweep(tmp_path, seeds=(0,))
    with pytest.raises(HarnessError, match=words):
        chosen(read_runs(tmp_path).table, (condition,))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give run folders"),
        (["nowhere"], "there is no such folder"),
        ([".", "rate=all"], "did you mean rates"),
        ([".", "rates=best"], "no such rates"),
        ([".", "compare=maybe"], "must be a valid boolean"),
        ([".", "where=method"], "must be column=value"),
        ([".", "against=full"], "needs compare=true"),
        ([".", "learning=.5"], "needs pareto=true"),
        ([".", "outcome=gain"], "did you mean outcomes"),
        ([".", "group=method", "rates=chosen"], "needs rates=all"),
        ([".", "--out"], "--out=: write out=<value>"),
        ([".", "--ouk=there"], "no such option; did you mean out"),
        ([".", "outcomes=gain"], "needs compare=true"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        COMMAND.parse(arguments)


@pytest.mark.slow
def test_everything_is_printed_and_written(tmp_path: Path, command) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    made = lambda m, r, rate, s: Made(0.9 if m == "lora" else 0.6, intruders=3, forgetting=0.2)  # noqa: E731
    make_sweep(runs, rates=(1e-4, 1e-3), made=made)
    make_run(runs, "method=bitfit", made=Made(status="failed", reason="boom"))
    outcomes = "outcomes=score,forgetting,gain_per_gib"
    code, printed = command(runs, "rates=chosen", "compare=true", "pareto=true", outcomes, f"out={out}")
    assert code == 0
    assert "lora r8 at 0.0001 scores higher than full at 0.0001 (pairs of method and rate): " in printed
    assert f"\n{UNSEARCHED}\n" in printed
    assert printed.count("these seeds chose the rate: the score is flattered") == 4  # in the table and in the front
    assert "failed: boom" in printed
    assert "not fair: the best learning rate is at the edge" in printed
    assert "0.0001, 0.001" in printed
    assert "+3 (3, random 0 [0, 0.3])" in printed
    names = {f"{name}.{end}" for name in TABLES for end in ("csv", "parquet", "md", "tex")}
    names |= {f"{name}.{end}" for name in ("runs", "equal_learning") for end in ("csv", "parquet")} | {"notes.txt"}
    assert {path.name for path in out.iterdir()} == names
    table = pd.read_parquet(out / "table.parquet")
    assert table["score"].dropna().sort_values().tolist() == pytest.approx([0.6, 0.9])
    assert len(pd.read_csv(out / "table.csv")) == len(table) == 3
    assert len(pd.read_csv(out / "runs.csv")) == 13
    assert (out / "notes.txt").read_text(encoding="utf-8").startswith("not fair: ")


@pytest.mark.parametrize("counted", [3, None])
def test_a_method_that_changes_no_matrix_has_no_count(tmp_path: Path, counted: int | None) -> None:
    make_run(tmp_path, "method=lora", made=Made(intruders=counted))
    make_run(tmp_path, "method=prompt", made=Made(intruders=None))
    text = shown(grouped(read_runs(tmp_path).table).rows)
    assert ("intruders" in text) is (counted is not None)
    if counted is not None:
        said = dict(zip(text["configuration"], text["intruders"], strict=True))
        assert said["prompt"] == "n/a" and said["lora r16"] == "+3 (3, random 0 [0, 0.3])"


def test_names_are_escaped_in_markdown_and_latex() -> None:
    text = pd.DataFrame({"configuration": ["a|b <b>질문</b> 50 % of_x"], "score [95 %]": [".8"]})
    assert "a\\|b &lt;b&gt;질문&lt;/b&gt; 50 % of_x" in markdown(text)
    assert r"50 \% of\_x" in latex(text) and "질문" in latex(text)
    assert "score [95 \\%]" in latex(text)


def test_names_with_html_quotes_and_korean_go_through(tmp_path: Path, command) -> None:
    name = "\"q\" 'a' <b>질문 유형</b> [red]x[/red]"
    folder = make_run(tmp_path / "runs", made=Made(status="failed", reason=name))
    record = read_record(folder)
    record["config"]["task"]["dataset"] = name
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    make_run(tmp_path / "runs", "method=full")
    code, printed = command(tmp_path / "runs", f"out={tmp_path / 'out'}")
    assert code == 0
    assert printed.count(name) == 2  # the task and the reason
    assert pd.read_csv(tmp_path / "out" / "runs.csv")["task"].isin([name]).any()


def test_bad_folders_are_lines_and_the_rest_works(tmp_path: Path, command) -> None:
    runs = tmp_path / "runs"
    sound = make_run(runs, "method=lora")
    (runs / "half").mkdir()
    (runs / "half" / "record.json").write_text("{", encoding="utf-8")
    (runs / "newer").mkdir()
    newer = json.dumps(read_record(sound) | {"schema_version": 99})
    (runs / "newer" / "record.json").write_text(newer, encoding="utf-8")
    code, printed = command(runs, "compare=true", f"out={tmp_path / 'out'}")
    assert code == 0
    assert "problem: " in printed and "half/record.json: damaged" in printed and "schema 99 is newer" in printed
    assert "nothing to compare" in printed
    assert "one seed only" in printed
    assert "lora r16" in printed


@pytest.mark.slow
def test_runs_of_two_tasks_are_compared_within_each(tmp_path: Path, command) -> None:
    for task in ("trec", "boolq"):
        for method, accuracy in (("lora", 0.9), ("full", 0.6)):
            make_run(tmp_path / "runs", f"method={method}", f"task={task}", made=Made(accuracy, data=task * 16))
    code, printed = command(tmp_path / "runs", "compare=true", f"out={tmp_path / 'out'}")
    assert code == 0
    assert "runs of 2 tasks (boolq, trec): compared within each" in printed
    assert "bert_tiny on trec: lora r16 at 0.00178 scores higher than full at 0.000178" in printed
    assert "bert_tiny on boolq: lora r16 at 0.00178 scores higher than full at 0.000178" in printed


@pytest.mark.parametrize("extra", [(), ("rates=chosen",), ("compare=true", "pareto=true")])
def test_runs_that_all_failed_are_a_table_of_reasons(tmp_path: Path, command, extra: tuple[str, ...]) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "runs", seed=seed, made=Made(status="failed", reason="out of memory"))
    code, printed = command(tmp_path / "runs", f"out={tmp_path / 'out'}", *extra)
    assert code == 0
    assert "failed: out of memory" in printed
    assert (tmp_path / "out" / "table.md").exists()


@pytest.mark.slow
def test_runs_resumed_under_other_versions_are_flagged_at_their_row_in_every_table(tmp_path: Path, command) -> None:
    mixed = {"lora": ["torch 2.12.0 → 2.13.0"], "full": []}
    for method, seed in itertools.product(mixed, (0, 1)):
        made = Made(0.9 if method == "lora" else 0.6, forgetting=0.1 + 0.1 * seed)
        make_run(tmp_path / "runs", f"method={method}", seed=seed, made=made, mixed=mixed[method] if seed else [])
    code, printed = command(tmp_path / "runs", "compare=true", "pareto=true", f"out={tmp_path / 'out'}")
    assert code == 0
    flag = "resumed under other versions or hardware (seed 1: torch 2.12.0 → 2.13.0)"
    assert f"not fair: {flag.partition(' (')[0]}" in printed
    for name in ("table", "comparisons", "pareto"):
        lines = (tmp_path / "out" / f"{name}.md").read_text(encoding="utf-8").splitlines()
        (flagged,) = [line for line in lines if flag in line]
        assert "lora r16" in flagged
    assert f"lora r16 was {flag}" in printed
    code, printed = command(tmp_path / "runs", f"out={tmp_path / 'out'}")
    assert flag in printed


def test_an_empty_folder_is_one_line(tmp_path: Path, command) -> None:
    code, printed = command(tmp_path)
    assert code == 1
    assert printed.startswith("table: ") and "holds no run" in printed and printed.count("\n") == 1


def test_help_and_mistakes_answer_without_pandas(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    code = "import sys, analysis.table; print('pandas' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout.strip() == "False"
