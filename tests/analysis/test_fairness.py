"""The rate that validation chooses, and a line for everything that is not equal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from made_runs import Made, make_run, make_sweep

from analysis.fairness import fair
from analysis.records import read_runs

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


def test_unequal_numbers_of_rates_are_said(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), rates=(1e-4, 1e-3, 1e-2))
    make_sweep(tmp_path, ("full",), rates=(1e-4,))
    said = _warned(read_runs(tmp_path).table, "learning rates tried")
    assert "1 (full)" in said and "3 (lora r8)" in said


def test_scales_of_both_kinds_are_said(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora", "rslora", "full"), ranks=(64,))
    said = _warned(read_runs(tmp_path).table, "scales")
    assert "2 (lora r64)" in said and "1 (rslora r64)" in said and "full" not in said


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


def test_data_models_and_tasks_that_differ_are_said(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "method=lora")
    make_run(tmp_path / "b", "method=full", made=Made(data="f" * 64))
    assert "ffffffff (full)" in _warned(read_runs(tmp_path).table, "the data differ")
    table = read_runs(tmp_path).table
    table.loc[0, "task"] = "boolq"
    assert "runs of 2 tasks (boolq, trec)" in _warned(table, "compared within each, never")


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
