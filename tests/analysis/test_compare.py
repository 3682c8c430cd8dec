"""Comparisons of stored runs: which test speaks, what is refused, and that nothing is called better that is noise."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import Made, make_run, make_sweep, search_record
from scipy.stats import binomtest

from analysis.effects.blocks import draws_of, effects_of
from analysis.effects.comparisons import Comparison, compare, signed
from analysis.effects.outcomes import FORGETTING, GAIN
from analysis.effects.verdicts import Needed, Verdict
from analysis.records import items, read_runs
from harness.errors import ConfigError

pytestmark = pytest.mark.usefixtures("quick")


def _right(folder: Path) -> np.ndarray:
    found = items(folder)
    return found[(found["phase"] == "after") & (found["split"] == "test")].sort_values("item")["score"].to_numpy()


@pytest.mark.slow
def test_one_run_each_is_nearly_mcnemars_test_of_their_items(tmp_path: Path) -> None:
    one = make_run(tmp_path, "method=lora", made=Made(accuracy=0.8, agreement=0.6))
    other = make_run(tmp_path, "method=full", made=Made(accuracy=0.72, agreement=0.6))
    (found,) = compare(effects_of(read_runs(tmp_path).table)).found
    a, b = _right(one), _right(other)
    only = int((a > b).sum()), int((a < b).sum())
    assert found.p == pytest.approx(binomtest(only[0], sum(only)).pvalue, rel=0.25)
    assert found.p_family == pytest.approx(found.p, rel=1e-3)
    assert abs(found.difference) == pytest.approx(0.08)
    assert found.items == 200


def _searched(folder: Path, method: str, accuracy: float, rate: float = 1e-3) -> None:
    """Write a run at the rate that a search chose."""
    found = search_record({rate: 0.7, 10 * rate: 0.6, rate / 10: 0.6}, rate)
    make_run(folder, f"method={method}", "rank=8", rate=rate, search=found, made=Made(accuracy=accuracy))


def test_a_large_difference_is_called_better_and_a_single_seed_is_said(tmp_path: Path) -> None:
    _searched(tmp_path, "lora", 0.9)
    _searched(tmp_path, "full", 0.6, rate=1e-4)
    comparisons = compare(effects_of(read_runs(tmp_path).table))
    (found,) = comparisons.found
    assert found.ahead == "lora r8"
    assert found.verdict.startswith("lora r8 is better than full: accuracy +.300 [")
    assert "another seed may say otherwise" in found.verdict
    assert not comparisons.unsearched


@pytest.mark.parametrize("accuracy", [0.9, 0.61])
def test_where_a_rate_was_not_searched_for_pairs_of_method_and_rate_are_ranked(tmp_path: Path, accuracy: float) -> None:
    _searched(tmp_path, "lora", accuracy)
    make_run(tmp_path, "method=full", rate=1e-4, made=Made(accuracy=0.6))
    comparisons = compare(effects_of(read_runs(tmp_path).table))
    (found,) = comparisons.found
    pair = "lora r8 at 0.001 scores higher than full at 0.0001 (pairs of method and rate): accuracy +.300 ["
    none = "full at 0.0001 and lora r8 at 0.001 (pairs of method and rate): undecided, accuracy -.010 ["
    assert found.verdict.startswith(pair if accuracy == 0.9 else none)
    assert "better" not in found.verdict
    assert comparisons.unsearched
    assert (found.first_rate, found.second_rate, found.searched) == (1e-4, 1e-3, False)


def test_shares_never_differ_by_more_than_one(tmp_path: Path) -> None:
    scores = {"lora": (0.95, 0.05), "full": (0.9, 0.1)}
    make_sweep(tmp_path, seeds=(0, 1), made=lambda method, rank, rate, seed: Made(accuracy=scores[method][seed]))
    (found,) = compare(effects_of(read_runs(tmp_path).table)).found
    assert (found.low, found.high) == (-1.0, 1.0)


def test_several_seeds_speak_of_the_methods(tmp_path: Path) -> None:
    scores = {"lora": (0.90, 0.88, 0.89), "full": (0.70, 0.72, 0.69)}
    make_sweep(tmp_path, made=lambda method, rank, rate, seed: Made(accuracy=scores[method][seed]))
    (found,) = compare(effects_of(read_runs(tmp_path).table)).found
    assert (found.seeds_first, found.seeds_second) == (3, 3)
    assert found.ahead == "lora r8"
    assert "another seed" not in found.verdict


def test_seeds_that_differ_more_than_the_methods_leave_it_undecided(tmp_path: Path) -> None:
    scores = {"lora": (0.90, 0.60, 0.75), "full": (0.65, 0.80, 0.70)}
    make_sweep(tmp_path, made=lambda method, rank, rate, seed: Made(accuracy=scores[method][seed]))
    (found,) = compare(effects_of(read_runs(tmp_path).table)).found
    assert found.ahead is None
    assert ": undecided, accuracy -.033 [" in found.verdict
    assert re.search(r"; n needed: more than 100 seeds each for 0.02$", found.verdict)


def test_equal_runs_are_equivalent_within_the_margin(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0,), made=lambda *_: Made(agreement=1.0))
    table = read_runs(tmp_path).table
    (found,) = compare(effects_of(table)).found
    assert (found.difference, found.p, found.ahead) == (0, 1, None)
    assert found.verdict.startswith(
        "full at 0.001 and lora r8 at 0.001 (pairs of method and rate): equivalent within 0.02"
    )
    assert "another seed may say otherwise" in found.verdict
    # 200 items that agree leave room for 3 that do not: 1.4 points
    (strict,) = compare(effects_of(table), margin=0.01).found
    assert strict.result is Verdict.undecided
    assert "items for 0.01" in strict.verdict


@pytest.mark.slow
def test_interval_and_p_of_a_family_say_the_same_and_are_wider_than_alone(tmp_path: Path) -> None:
    scores = {"lora": 0.82, "full": 0.74, "bitfit": 0.7, "rslora": 0.78}
    made = lambda method, rank, rate, seed: Made(scores[method] + 0.01 * seed, agreement=0.7)  # noqa: E731
    make_sweep(tmp_path, scores, made=made)
    found = compare(effects_of(read_runs(tmp_path).table)).found
    assert len(found) == 6
    for one in found:
        assert (one.p_family < 0.05) == (not one.low <= 0 <= one.high) == (one.ahead is not None)
        assert one.p < one.p_family
        assert one.low < one.difference < one.high
    assert {one.result for one in found} >= {Verdict.undecided, Verdict.worse}


@pytest.mark.slow
def test_noise_between_many_configurations_is_never_called_better(tmp_path: Path) -> None:
    """Twelve configurations of the same worth, three seeds each: 66 comparisons, of which some have p < .05."""
    rng = np.random.default_rng(0)
    noise = {(rank, seed): float(rng.normal(0.75, 0.02)) for rank in range(1, 13) for seed in range(3)}
    made = lambda method, rank, rate, seed: Made(noise[rank, seed], agreement=0.7, forgetting=None)  # noqa: E731
    make_sweep(tmp_path, ("lora",), ranks=range(1, 13), made=made)
    found = compare(effects_of(read_runs(tmp_path).table)).found
    assert len(found) == 66
    assert [one.verdict for one in found if one.ahead] == []
    assert all(one.p_family >= one.p for one in found)


@pytest.mark.slow
def test_a_smaller_family_corrects_less(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora", "rslora", "full"), seeds=(0,), made=lambda m, *_: Made(0.8 if m == "full" else 0.7))
    table = read_runs(tmp_path).table
    every, few = compare(effects_of(table)).found, compare(effects_of(table), against="full").found
    assert (len(every), len(few)) == (3, 2)
    assert all(one.second == "full" and one.family == 2 for one in few)
    with pytest.raises(ConfigError, match="did you mean full"):
        compare(effects_of(table), against="ful")


def test_lower_can_be_better() -> None:
    numbers = {"difference": -2, "low": -3, "high": -1, "p": 0.001, "p_family": 0.001, "family": 1, "margin": 0.2}
    more = {"first_score": 10, "second_score": 12, "items": 9, "seeds_first": 3, "seeds_second": 3}
    sides = {"where": "", "first": "a", "second": "b", "metric": "perplexity", "within_margin": False}
    verdict = {"needed": Needed(math.inf, 0.0), "result": Verdict.better}
    one = Comparison(**sides, **numbers, **more, **verdict, higher_is_better=False)
    assert one.ahead == "a"
    assert one.verdict.startswith(
        "a scores lower than b (pairs of method and rate): perplexity -2.000 [-3.000, -1.000]"
    )
    assert replace(one, searched=True).verdict.startswith("a is better than b: perplexity -2.000 [-3.000, -1.000]")
    other = replace(one, result=Verdict.worse)
    assert other.ahead == "b"
    assert other.verdict.startswith("b scores lower than a (pairs of method and rate): perplexity +2.000 [+1.000, +3")
    assert "[-3.000, -1.000], less than 0.2" in replace(one, within_margin=True).verdict
    assert replace(one, result=Verdict.undecided).ahead is None


def test_other_metrics_are_compared_on_the_same_draws_of_items(tmp_path: Path) -> None:
    for method, shift in (("lora", 0.0), ("full", 0.4)):
        folder = make_run(tmp_path, f"method={method}", made=Made(forgetting=None))
        _regression(folder, shift)
    (found,) = compare(effects_of(read_runs(tmp_path).table)).found
    assert found.metric == "pearson"
    assert found.ahead == "lora r16"


def _regression(folder: Path, noise: float) -> None:
    """Make a run one of numbers instead of labels."""
    import json

    rng = np.random.default_rng(1)
    targets = rng.normal(size=200)
    scores = targets + (0.3 + noise) * rng.normal(size=200)
    frame = items(folder)
    test = (frame["phase"] == "after") & (frame["split"] == "test")
    frame.loc[test, "score"], frame.loc[test, "target"] = scores, [repr(float(value)) for value in targets]
    frame.to_parquet(folder / "items.parquet")
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    value = float(np.corrcoef(scores, targets)[0, 1])
    record["metric"] = "pearson"
    record["scores"]["after"]["test"]["pearson"] = {"value": value, "low": 0, "high": 1, "n": 200} | {
        "higher_is_better": True
    }
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")


def test_runs_of_different_data_are_compared_within_each(tmp_path: Path) -> None:
    for data in ("a", "b"):
        for method, accuracy in (("lora", 0.9), ("full", 0.6)):
            made = Made(accuracy, data=data * 64, items=200 if data == "a" else 150)
            make_run(tmp_path / data, f"method={method}", made=made)
    found = compare(effects_of(read_runs(tmp_path).table)).found
    assert len(found) == 2
    assert {one.items for one in found} == {200, 150}
    assert {one.where for one in found} == {"bert_tiny on trec (data aaaaaaaa)", "bert_tiny on trec (data bbbbbbbb)"}


def test_a_pair_with_different_items_is_refused(tmp_path: Path) -> None:
    sizes = {"lora": 200, "full": 150}
    make_sweep(tmp_path, seeds=(0,), made=lambda method, *_: Made(items=sizes[method]))
    found = compare(effects_of(read_runs(tmp_path).table))
    assert found.found == ()
    assert "answered other items" in found.problems[0]


def test_a_run_without_items_is_left_out_and_said(tmp_path: Path) -> None:
    folders = make_sweep(tmp_path, ("lora", "full", "bitfit"), seeds=(0,))
    (folders[0] / "items.parquet").unlink()
    found = compare(effects_of(read_runs(tmp_path).table))
    assert len(found.found) == 1
    assert "there is no such file" in found.problems[0]


def test_items_that_are_not_the_records_are_refused(tmp_path: Path) -> None:
    folders = make_sweep(tmp_path, ("lora", "full", "bitfit"), seeds=(0,))
    frame = items(folders[0])
    frame.assign(score=1 - frame["score"]).to_parquet(folders[0] / "items.parquet")
    found = compare(effects_of(read_runs(tmp_path).table))
    assert len(found.found) == 1
    assert "the items give accuracy" in found.problems[0]


def test_failed_and_foreign_runs_are_never_compared(tmp_path: Path) -> None:
    make_run(tmp_path, "method=lora", made=Made(0.9))
    make_run(tmp_path, "method=full", made=Made(status="failed", reason="out of memory"))
    assert compare(effects_of(read_runs(tmp_path).table)).found == ()
    make_run(tmp_path, "method=bitfit", made=Made(0.6))
    table = read_runs(tmp_path).table
    table["foreign"] = table["method"] == "bitfit"
    assert compare(effects_of(table)).found == ()
    assert compare(effects_of(table)).table().empty


def test_the_table_has_a_column_for_each_field_and_the_verdict(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0,))
    table = compare(effects_of(read_runs(tmp_path).table)).table()
    assert {"first", "second", "difference", "low", "high", "p", "p_family", "result", "ahead", "verdict"} <= {
        *table.columns
    }
    assert isinstance(table, pd.DataFrame) and len(table) == 1


def test_large_test_sets_draw_fewer_resamples() -> None:
    assert draws_of(500) == 2000
    assert draws_of(100_000) == 500
    assert draws_of(10**7) == 200


@pytest.mark.parametrize(
    ("value", "text"), [(0.0431, "+.043"), (-0.5, "-.500"), (0.0, "+.000"), (12.34, "+12.3"), (float("nan"), "?")]
)
def test_differences_are_written_with_their_sign(value: float, text: str) -> None:
    assert signed(value) == text


@pytest.mark.slow
def test_forgetting_is_compared_like_learning_item_by_item(tmp_path: Path) -> None:
    """Changes of .3 and 2.7 nats with seeds of no spread of their own: shown, though only 30 texts were read."""
    forgotten = {"lora": 0.3, "full": 2.7, "bitfit": 0.3}
    make_sweep(tmp_path, forgotten, made=lambda method, *_: Made(forgetting=forgotten[method]))
    found = {
        (one.first, one.second): one for one in compare(effects_of(read_runs(tmp_path).table), outcome=FORGETTING).found
    }
    assert len(found) == 3
    one = found["full", "lora r8"]
    assert (one.metric, one.higher_is_better, one.items) == ("lm_loss made/loss", False, 30)
    assert one.difference == pytest.approx(2.4)
    assert one.ahead == "lora r8"
    assert (
        "lora r8 at 0.001 forgets less than full at 0.001 (pairs of method and rate): lm_loss made/loss -2.4"
        in one.verdict
    )
    assert one.outcome.startswith("lora r8 forgets less")
    assert found["bitfit", "lora r8"].ahead is None


def test_forgetting_that_its_items_do_not_give_is_left_out_and_said(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora", "full", "bitfit"), seeds=(0,))
    table = read_runs(tmp_path).table
    table.loc[table["method"] == "lora", "forgetting"] = 0.5
    found = compare(effects_of(table), outcome=FORGETTING)
    assert len(found.found) == 1
    assert "no items give lm_loss made/loss +0.5, as the record says" in found.problems[0]
    assert compare(effects_of(table.assign(forgetting_name=None)), outcome=FORGETTING).found == ()


def test_gains_of_shares_differ_by_no_more_than_one(tmp_path: Path) -> None:
    """Both began at the same base, so that their difference is that of two shares."""
    for method, seed in product(("lora", "full"), range(2)):
        make_run(tmp_path, f"method={method}", seed=seed, made=Made(0.25 + 0.7 * seed, base=0.2))
    effects = effects_of(read_runs(tmp_path).table)
    (found,) = compare(effects, outcome=GAIN).found
    assert (found.low, found.high) == (-1, 1)
    (block,) = effects.blocks
    assert {one.interval() for one in block.effects(GAIN).values()} == {(-1, 1)}
