"""The rate that validation chooses, and a line for everything that is not equal."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_runs import Made, make_old, make_run, make_sweep, search_record

from analysis.effects.blocks import effects_of
from analysis.effects.comparisons import compare
from analysis.effects.fairness import fair
from analysis.effects.verdicts import Verdict
from analysis.records import read_runs
from harness.config import ModelConfig, TrainConfig

pytestmark = pytest.mark.usefixtures("quick")


def _warned(table: pd.DataFrame, words: str) -> str:
    """Return the one warning with these words."""
    (found,) = [line for line in fair(table).warnings if words in line]
    assert "\n" not in found
    return found


def test_validation_chooses_the_rate_and_the_test_split_has_no_say(tmp_path: Path) -> None:
    scores = {1e-4: (0.70, 0.99), 1e-3: (0.80, 0.50), 1e-2: (0.75, 0.60)}  # (validation, test)
    make_sweep(
        tmp_path,
        ("lora",),
        rates=tuple(scores),
        seeds=(0, 1),
        made=lambda m, r, rate, s: Made(scores[rate][1], validation=scores[rate][0]),
    )
    chosen, warnings = fair(read_runs(tmp_path).table)
    assert set(chosen["learning_rate"]) == {1e-3}
    assert chosen["score"].tolist() == [0.5, 0.5]
    assert chosen["rates"].iloc[0] == "0.0001, 0.001, 0.01"
    assert chosen["rates_tried"].tolist() == [3, 3]
    assert warnings == ()


def test_the_mean_over_seeds_chooses(tmp_path: Path) -> None:
    best = {(1e-4, 0): 0.9, (1e-4, 1): 0.5, (1e-3, 0): 0.8, (1e-3, 1): 0.8}
    made = lambda m, r, rate, seed: Made(validation=best[rate, seed])  # noqa: E731
    make_sweep(tmp_path, ("lora",), rates=(1e-4, 1e-3), seeds=(0, 1), made=made)
    assert set(fair(read_runs(tmp_path).table).chosen["learning_rate"]) == {1e-3}


def test_a_best_rate_at_the_edge_is_said(tmp_path: Path) -> None:
    best = {1e-4: 0.7, 1e-3: 0.8}
    make_sweep(tmp_path, ("lora",), rates=(1e-4, 1e-3), made=lambda m, r, rate, s: Made(validation=best[rate]))
    assert "lora r8 (0.001, the largest of 2)" in _warned(read_runs(tmp_path).table, "edge")


@pytest.mark.slow
def test_unequal_numbers_of_rates_are_said(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), rates=(1e-4, 1e-3, 1e-2))
    make_sweep(tmp_path, ("full",), rates=(1e-4,))
    said = _warned(read_runs(tmp_path).table, "learning rates tried")
    assert "1 (full)" in said and "3 (lora r8)" in said


@pytest.mark.slow
def test_scales_of_both_kinds_are_said(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora", "rslora", "full"), ranks=(64,))
    said = _warned(read_runs(tmp_path).table, "scales")
    assert "2 (lora r64)" in said and "1 (rslora r64)" in said and "full" not in said


@pytest.mark.slow
def test_budgets_are_compared_in_tokens_and_steps(tmp_path: Path) -> None:
    make_sweep(tmp_path, made=lambda method, *_: Made(tokens=10_000 if method == "lora" else 10_100))
    assert not [line for line in fair(read_runs(tmp_path).table).warnings if "tokens" in line]
    make_run(tmp_path, "method=bitfit", made=Made(tokens=20_000), steps=99)
    table = read_runs(tmp_path).table
    assert "from 10,000 (lora r8) to 20,000 (bitfit)" in _warned(table, "tokens trained on differ")
    assert "99 (bitfit)" in _warned(table, "training steps differ")


def test_epochs_count_where_they_decide(tmp_path: Path) -> None:
    for method, epochs in (("lora", 1), ("full", 3)):
        make_run(tmp_path, f"method={method}", "train.max_steps=-1", f"train.num_train_epochs={epochs}")
    assert "1 (lora r16)" in _warned(read_runs(tmp_path).table, "epochs differ")


@pytest.mark.parametrize(
    ("record", "words", "named"),
    [
        ({"commit": "abcdef0123456789"}, "commits differ", "abcdef01 (full)"),
        ({"versions": {"torch": "9.9"}}, "versions of torch differ", "9.9 (full)"),
        ({"machine": {"gpu": "H100"}}, "machines, so times and memory, differ", "H100 (full)"),
    ],
)
def test_origins_that_differ_are_said(tmp_path: Path, record: dict[str, object], words: str, named: str) -> None:
    make_run(tmp_path, "method=lora")
    make_run(tmp_path, "method=full", **record)
    assert named in _warned(read_runs(tmp_path).table, words)


RUNTIME: dict[str, Any] = {
    "device": "cpu",
    "gpu": None,
    "threads": 2,
    "processes": 1,
    "kernels": "AVX2",
    "precision": {"weights": "float32", "trained": "float32", "compute": "float32"},
    "optimizer": "adamw_torch",
    "environment": {},
}


def precision(**dtypes: str) -> dict[str, Any]:
    return {"precision": RUNTIME["precision"] | dtypes}


@pytest.mark.parametrize(
    ("changed", "words", "named"),
    [
        (precision(trained="bfloat16"), "precisions of the trained weights", "bfloat16 (full)"),
        (precision(compute="bfloat16"), "precisions of computation", "bfloat16 (full)"),
        ({"device": "cuda", "gpu": "H100"}, "devices (CPU or GPU)", "cuda (full)"),
        ({"threads": 16}, "threads, so times", "16 (full)"),
        ({"processes": 4}, "processes differ", "4 (full)"),
        ({"kernels": "AVX512"}, "CPU kernels differ", "AVX512 (full)"),
        ({"environment": {"MKL_CBWR": "AVX2"}}, "environment variables", "MKL_CBWR=AVX2 (full)"),
    ],
)
def test_conditions_that_differ_are_said_with_their_rows(
    tmp_path: Path, changed: dict[str, Any], words: str, named: str
) -> None:
    make_run(tmp_path, "method=lora", runtime=RUNTIME)
    make_run(tmp_path, "method=full", runtime=RUNTIME | changed)
    said = _warned(read_runs(tmp_path).table, words)
    assert named in said and "(lora r16)" in said


def test_equal_conditions_are_not_said(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    assert fair(read_runs(tmp_path).table).warnings == ()


def test_processors_are_said_once(tmp_path: Path) -> None:
    for method, name in (("lora", "one"), ("full", "other")):
        make_run(tmp_path, f"method={method}", machine={"processor": name, "gpu": None})
    table = read_runs(tmp_path).table
    said = _warned(table, "machines")
    assert "one (lora r16)" in said and "other (full)" in said
    assert not [line for line in fair(table).warnings if line.startswith("processors")]


def test_a_row_whose_own_seeds_differ_is_said(tmp_path: Path) -> None:
    for seed, threads in ((0, 2), (1, 8)):
        make_run(tmp_path, "method=lora", seed=seed, runtime=RUNTIME | {"threads": threads})
    assert "2/8 (lora r16)" in _warned(read_runs(tmp_path).table, "threads")


def test_rows_with_runs_resumed_under_other_versions_are_named(tmp_path: Path) -> None:
    make_run(tmp_path, "method=lora", seed=0)
    make_run(tmp_path, "method=lora", seed=1, mixed=["torch 2.12.0 → 2.13.0"])
    make_run(tmp_path, "method=full", seed=0)
    said = _warned(read_runs(tmp_path).table, "resumed under other versions")
    assert said.endswith("lora r16 (seed 1: torch 2.12.0 → 2.13.0)")


def test_costs_of_both_schemas_are_not_compared_in_silence(tmp_path: Path) -> None:
    make_old(make_run(tmp_path, "method=lora"))
    make_run(tmp_path, "method=full")
    table = read_runs(tmp_path).table
    said = _warned(table, "costs were measured differently")
    assert said.endswith("of schema 1: lora r16") and "checkpoints" in said
    others = [line for line in fair(table).warnings if line != said]
    assert not [line for line in others if "unknown" in line]
    assert set(fair(table).chosen["configuration"]) == {"lora r16", "full"}


def test_a_run_without_the_newer_settings_is_no_other_configuration(tmp_path: Path) -> None:
    make_old(make_run(tmp_path, "method=lora", seed=0))
    make_run(tmp_path, "method=lora", seed=1)
    assert set(fair(read_runs(tmp_path).table).chosen["configuration"]) == {"lora r16"}
    make_run(tmp_path, "method=lora", "train.master_weights=false", seed=2)
    assert "lora r16 master_weights=False" in set(fair(read_runs(tmp_path).table).chosen["configuration"])


@pytest.mark.parametrize("section", ["model", "train"])
def test_a_record_older_than_any_setting_is_no_other_configuration(section: str, tmp_path: Path) -> None:
    """Every field was new once: a record without it was made by its default, unless that is null, as a lack is."""
    settings = {"model": ModelConfig, "train": TrainConfig}[section]
    named = {one.name for one in fields(settings) if one.default is not None}
    older = make_run(tmp_path, "method=lora", seed=0) / "record.json"
    make_run(tmp_path, "method=lora", seed=1)
    record = json.loads(older.read_text(encoding="utf-8"))
    for name in named & set(record["config"][section]) - {"name"}:
        older.write_text(json.dumps(record | {"config": without(record["config"], section, name)}), encoding="utf-8")
        assert set(fair(read_runs(tmp_path).table).chosen["configuration"]) == {"lora r16"}, name


def without(config: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    return config | {section: {key: value for key, value in config[section].items() if key != name}}


def test_changes_without_a_commit_are_said(tmp_path: Path) -> None:
    make_run(tmp_path, "method=lora", dirty=False)
    make_run(tmp_path, "method=full", dirty=True)
    assert _warned(read_runs(tmp_path).table, "no commit holds").endswith(": full")


def test_single_and_unequal_seeds_are_said(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",))
    make_sweep(tmp_path, ("full",), seeds=(0,))
    table = read_runs(tmp_path).table
    assert _warned(table, "one seed only").endswith(": full")
    assert "0/1/2 (lora r8)" in _warned(table, "seeds differ")


@pytest.mark.slow
def test_data_models_and_tasks_that_differ_are_said(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "method=lora")
    make_run(tmp_path / "b", "method=full", made=Made(data="f" * 64))
    assert "ffffffff (full)" in _warned(read_runs(tmp_path).table, "the data differ")
    table = read_runs(tmp_path).table
    table.loc[0, "task"] = "boolq"
    assert "runs of 2 tasks (boolq, trec)" in _warned(table, "compared within each, never")


@pytest.mark.slow
def test_settings_other_than_rate_and_seed_make_another_configuration(tmp_path: Path) -> None:
    for alpha in (8, 16):
        make_sweep(tmp_path, ("lora",), rates=(1e-4, 1e-3), overrides=(f"method.alpha={alpha}",))
    chosen, _ = fair(read_runs(tmp_path).table)
    assert set(chosen["configuration"]) == {"lora r8 alpha=8", "lora r8 alpha=16"}


def test_what_changes_no_result_makes_no_other_configuration_and_a_seed_counts_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "method=lora", "train.logging_steps=1", started="2026-01-01", made=Made(0.5))
    make_run(tmp_path / "b", "method=lora", "train.logging_steps=7", started="2026-01-02", made=Made(0.6))
    table = read_runs(tmp_path).table
    chosen, _ = fair(table)
    assert chosen["score"].tolist() == [0.6]
    assert "lora r16 (seed 0)" in _warned(table, "more than once")


@pytest.mark.slow
def test_without_validation_scores_no_rate_is_chosen(tmp_path: Path) -> None:
    make_sweep(tmp_path, rates=(1e-4, 1e-3))
    table = read_runs(tmp_path).table.assign(validation=float("nan"))
    chosen, _ = fair(table)
    assert chosen.empty
    assert "lora r8" in _warned(table, "no validation score")


def test_without_any_run_that_is_done_there_is_nothing_to_choose(tmp_path: Path) -> None:
    make_run(tmp_path, made=Made(status="failed", reason="boom"))
    chosen, warnings = fair(read_runs(tmp_path).table)
    assert chosen.empty and warnings == ()
    assert {"configuration", "rates_tried", "rates"} <= {*chosen.columns}


def _searched(folder: Path, *seeds: int, rate: float = 1e-3, **search: Any) -> None:
    """Write runs of LoRA at the rate that a search over three or more rates chose."""
    found = search_record({1e-3: 0.7, 1e-2: 0.6, 1e-4: 0.6} | search.pop("more", {}), rate, **search)
    for seed in seeds:
        make_run(folder, "method=lora", rate=rate, seed=seed, search=found, made=Made(validation=0.5))


def test_a_rate_that_a_search_chose_counts_whatever_the_reported_seeds_say(tmp_path: Path) -> None:
    _searched(tmp_path, 0, 1)
    for seed in (0, 1):
        make_run(tmp_path, "method=lora", rate=1e-2, seed=seed, made=Made(validation=0.9))
    chosen, warnings = fair(read_runs(tmp_path).table)
    assert chosen["learning_rate"].tolist() == [1e-3, 1e-3]
    assert set(chosen["rates_tried"]) == {3} and set(chosen["rates"]) == {"0.0001, 0.001, 0.01"}
    assert set(chosen["chosen_by"]) == {"search"}
    assert warnings == ()


def test_of_two_searches_the_wider_counts(tmp_path: Path) -> None:
    _searched(tmp_path, 0, rate=1e-2, more={1e-1: 0.5})
    _searched(tmp_path, 0, rate=1e-3)
    assert fair(read_runs(tmp_path).table).chosen["learning_rate"].tolist() == [1e-2]


def test_a_search_that_ended_too_soon_is_said_with_its_reason(tmp_path: Path) -> None:
    _searched(tmp_path, 0, 1, warning="search.max_runs=3 reached: a larger rate may be better")
    said = _warned(read_runs(tmp_path).table, "the optimum is not inside")
    assert said.endswith("lora r16 (search.max_runs=3 reached: a larger rate may be better)")


def test_searches_of_different_lengths_are_fair_and_a_rate_without_one_is_not(tmp_path: Path) -> None:
    _searched(tmp_path, 0, 1)
    found = search_record({1e-3: 0.7, 1e-2: 0.6, 1e-4: 0.6, 1e-5: 0.5}, 1e-3)
    for seed in (0, 1):
        make_run(tmp_path, "method=full", rate=1e-3, seed=seed, search=found)
    assert not [line for line in fair(read_runs(tmp_path).table).warnings if "learning rates tried" in line]
    for seed in (0, 1):
        make_run(tmp_path, "method=bitfit", seed=seed)
    said = _warned(read_runs(tmp_path).table, "learning rates tried")
    assert "1 (bitfit)" in said and "by a search (" in said


def test_seeds_that_chose_their_own_rate_are_marked(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), rates=(1e-4, 1e-3), seeds=(0, 1))
    make_sweep(tmp_path, ("full",), rates=(1e-4,), seeds=(0, 1))
    chosen = fair(read_runs(tmp_path).table).chosen
    assert dict(zip(chosen["method"], chosen["chosen_by"], strict=True)) == {"lora": "seeds", "full": "given"}


def _diverged(folder: Path, rate: float, seed: int) -> Path:
    failed = Made(status="failed", reason="the loss is nan at step 3")
    return make_run(folder, "method=lora", "rank=8", rate=rate, seed=seed, made=failed, diverged=True)


def test_a_rate_at_which_a_seed_diverged_is_never_chosen_by_the_others(tmp_path: Path) -> None:
    best = {1e-4: 0.6, 1e-3: 0.7, 1e-2: 0.9}
    made = lambda m, r, rate, s: Made(validation=best[rate])  # noqa: E731
    make_sweep(tmp_path, ("lora",), rates=tuple(best), seeds=(0, 1), made=made)
    _diverged(tmp_path, 1e-2, seed=2)
    chosen, warnings = fair(read_runs(tmp_path).table)
    assert set(chosen["learning_rate"]) == {1e-3}
    assert not [line for line in warnings if "edge" in line]  # the optimum is inside: what lies beyond diverges


def test_two_diverged_seeds_of_three_never_win(tmp_path: Path) -> None:
    """At .01 one survivor has .85, at .001 three seeds have .8; where .01 is the only rate, it wins nothing either."""
    make_sweep(tmp_path / "a", ("lora",), rates=(1e-3,), made=lambda *_: Made(0.8, validation=0.8))
    make_sweep(tmp_path / "b", ("lora",), rates=(1e-2,), seeds=(0,), made=lambda *_: Made(0.95, validation=0.85))
    for seed in (1, 2):
        _diverged(tmp_path / "b", 1e-2, seed)
    assert set(fair(read_runs(tmp_path).table).chosen["learning_rate"]) == {1e-3}
    make_sweep(tmp_path / "b", ("full",), rates=(1e-2,), made=lambda *_: Made(0.5))
    table = read_runs(tmp_path / "b").table
    assert set(fair(table).chosen["diverged_seeds"]) == {"", "1, 2"}
    (found,) = compare(effects_of(table)).found
    assert found.low > 0 or found.high < 0  # the survivor alone would be better
    assert found.ahead is None and found.result is Verdict.undecided
    assert "lora r8: seed 1, 2 diverged, which counts as worst" in found.verdict


def test_a_sweep_of_one_methods_option_renames_no_other(tmp_path: Path) -> None:
    for alpha in (8, 32):
        make_run(tmp_path, "method=lora", f"method.alpha={alpha}", "rank=8")
    make_run(tmp_path, "method=lora", "rank=16")
    make_run(tmp_path, "method=full")
    effects = effects_of(read_runs(tmp_path).table)
    names = {"lora r8 alpha=8", "lora r8 alpha=32", "lora r16", "full"}
    assert set(effects.chosen["configuration"]) == names
    assert {one.second for one in compare(effects, against="full").found} == {"full"}


def test_a_rate_at_which_all_seeds_diverged_was_tried(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), rates=(1e-4, 1e-3), seeds=(0,))
    _diverged(tmp_path, 1e-2, seed=0)
    assert fair(read_runs(tmp_path).table).chosen["rates"].tolist() == ["0.0001, 0.001, 0.01"]


def test_where_some_seed_diverged_at_every_rate_none_is_chosen(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), rates=(1e-4, 1e-3), seeds=(0,))
    for rate in (1e-4, 1e-3):
        _diverged(tmp_path, rate, seed=1)
    table = read_runs(tmp_path).table
    assert fair(table).chosen.empty
    assert _warned(table, "some seed diverged at every learning rate").endswith("lora r8")


def test_survivors_of_the_only_rate_are_said_and_a_seed_trained_again_is_none(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), rates=(1e-3,), seeds=(0, 1))
    _diverged(tmp_path / "before", 1e-3, seed=1)
    assert not [line for line in fair(read_runs(tmp_path).table).warnings if "diverged" in line]
    _diverged(tmp_path, 1e-3, seed=2)
    assert _warned(read_runs(tmp_path).table, "a seed diverged").endswith("lora r8 (seed 2)")
