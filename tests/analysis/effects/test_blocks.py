"""One estimate of each configuration and outcome, whatever else is shown; costs and prices are outcomes too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import Made, make_run, make_sweep
from scipy import stats

from analysis.effects.blocks import effects_of
from analysis.effects.comparisons import compare
from analysis.effects.outcomes import COSTS, FORGETTING, GAIN, LEARNING, PRICES, probe
from analysis.effects.verdicts import Verdict
from analysis.records import read_runs
from analysis.views.table.grouped import grouped

pytestmark = pytest.mark.usefixtures("quick")
ENDS = ["score", "score_low", "score_high", "forgetting", "forgetting_low", "forgetting_high"]


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Two rates, of which validation chooses the second; seeds spread ten times as far at the first."""
    score = {"lora": 0.8, "full": 0.75, "bitfit": 0.7}

    def made(method: str, rank: int, rate: float, seed: int) -> Made:
        spread = 0.1 if rate == 1e-4 else 0.01
        costs = {"trainable": {"lora": 20_000, "full": 4_000_000, "bitfit": 1_000}[method], "seconds": 10.0 + seed}
        return Made(
            score[method] + spread * (seed - 1), validation=0.5 + 100 * rate, forgetting=0.1 + rate * seed, **costs
        )

    make_sweep(tmp_path, score, rates=(1e-4, 1e-3), made=made)
    return read_runs(tmp_path).table


@pytest.mark.slow
def test_a_rows_interval_does_not_depend_on_the_rows_beside_it(table: pd.DataFrame) -> None:
    effects = effects_of(table)
    every = grouped(table).rows.set_index(["configuration", "learning_rate"])
    chosen = grouped(effects.chosen).rows.set_index(["configuration", "learning_rate"])
    assert len(every) == 6 and len(chosen) == 3
    for key, row in chosen.iterrows():
        assert every.loc[key, ENDS].tolist() == pytest.approx(row[ENDS].tolist())
    (block,) = effects.blocks
    for label, effect in block.effects(LEARNING).items():
        shown = chosen.loc[(label, 1e-3)]
        assert (shown["score_low"], shown["score_high"]) == pytest.approx(effect.interval())
    wide = every.xs(1e-4, level="learning_rate")
    assert ((wide["score_high"] - wide["score_low"]) > 2 * (chosen["score_high"] - chosen["score_low"]).max()).all()


@pytest.mark.slow
def test_an_estimate_is_computed_once(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    counted = replace(LEARNING, read=lambda run: calls.append(run["folder"]) or LEARNING.read(run))
    effects = effects_of(table)
    for _ in range(3):
        compare(effects, outcome=counted)
        assert effects.of(effects.blocks[0].configurations["full"], counted) is not None
    assert len(calls) == len(set(calls)) == 9


@pytest.mark.slow
def test_a_gain_is_what_training_changed_and_a_price_divides_it_by_the_cost(table: pd.DataFrame) -> None:
    (block,) = effects_of(table).blocks
    gain, seconds = block.effects(GAIN)["lora r8"], block.effects(COSTS["seconds"])["lora r8"]
    assert gain.estimate.value == pytest.approx(0.8 - 0.3)
    assert seconds.estimate.value == pytest.approx(11)
    assert seconds.estimate.outer > 0 and not seconds.estimate.deviations.any()
    price = block.effects(PRICES["gain_per_minute"])["lora r8"]
    assert price.estimate.value == pytest.approx(0.5 / (11 / 60))
    low, high = price.interval()
    assert low < price.estimate.value < high
    parameters = block.effects(PRICES["gain_per_million_parameters"])["full"]
    assert parameters.estimate.value == pytest.approx(0.45 / 4)
    # a count has no noise: the interval is the gain's, divided
    assert parameters.interval() == pytest.approx(np.array(block.effects(GAIN)["full"].interval()) / 4)


@pytest.mark.slow
def test_prices_and_costs_are_compared_like_scores(table: pd.DataFrame) -> None:
    effects = effects_of(table)
    found = {
        (one.first, one.second): one for one in compare(effects, outcome=PRICES["gain_per_million_parameters"]).found
    }
    assert found["bitfit", "full"].ahead == "bitfit" and len(found) == 3
    equal = compare(effects, outcome=COSTS["seconds"], margin=0.5).found
    assert {one.result for one in equal} == {Verdict.equivalent}
    assert equal[0].margin == pytest.approx(0.5 * 11)  # a share of the level
    assert not equal[0].higher_is_better


@pytest.mark.slow
def test_any_probe_is_an_outcome(table: pd.DataFrame) -> None:
    (block,) = effects_of(table).blocks
    headline = block.effects(FORGETTING)["full"]
    (named,) = [one for one in block.effects(probe("lm_loss", "made/loss")).values() if one.label == "full"] or [None]
    assert named is not None
    assert named.interval() == pytest.approx(headline.interval())
    assert named.higher_is_better is headline.higher_is_better is False


def test_alone_with_one_seed_a_score_has_its_records_interval(tmp_path: Path) -> None:
    make_run(tmp_path, made=Made(0.8))
    runs = read_runs(tmp_path).table
    effects = effects_of(runs)
    effect = effects.of(effects.chosen, LEARNING)
    assert effect is not None and effect.interval() == (runs["score_low"][0], runs["score_high"][0])
    low, high = stats.binomtest(160, 200).proportion_ci(method="wilson")
    assert effect.interval() == pytest.approx((low, high), abs=1e-3)


@pytest.mark.slow
def test_questions_on_one_passage_are_drawn_together(tmp_path: Path) -> None:
    """Of 200 items in 20 passages that are right or wrong as one, the interval is that of 20 items."""
    folders = make_sweep(tmp_path, ("lora", "full"), seeds=(0,), made=lambda *_: Made(0.8, agreement=1.0))
    alone = effects_of(read_runs(tmp_path).table).blocks[0].effects(LEARNING)["full"]
    for folder in folders:
        items = pd.read_parquet(folder / "items.parquet")
        test = (items["phase"] == "after") & (items["split"] == "test")
        right = items.loc[test, "score"].rank(method="first").astype(int).sub(1) // 10
        items.loc[test, "cluster"] = right.astype(str)
        items.to_parquet(folder / "items.parquet")
    found = effects_of(read_runs(tmp_path).table).blocks[0].effects(LEARNING)["full"]
    assert (alone.items, alone.units, found.items, found.units) == (200, 200, 200, 20)
    assert alone.estimate.deviations.std() == pytest.approx(np.sqrt(0.16 / 200), rel=0.1)
    assert found.estimate.deviations.std() == pytest.approx(np.sqrt(0.16 / 20), rel=0.1)


def test_of_a_run_that_forgot_nothing_the_series_is_known_by_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a probe's series changed by 0 then: the questions' ranks and the similarities of texts besides."""
    ranks, similarities = [1.0, 0.5, 1.0], [0.2, 0.3]
    rows = [
        {"phase": phase, "split": f"forgetting/retrieval/{series}", "item": str(place), "score": value}
        for phase in ("before", "after")
        for series, values in (("rank", ranks), ("similarity", similarities))
        for place, value in enumerate(values)
    ]
    answers = pd.DataFrame(rows).assign(loss=np.nan, tokens=0)
    monkeypatch.setattr("analysis.effects.outcomes.items", lambda folder: answers)
    level = {"probe.retrieval.mrr.base": np.mean(ranks), "probe.retrieval.mrr.after": np.mean(ranks)}
    run = {"folder": "runs/head", "forgetting_name": "retrieval mrr", "forgetting": 0.0, **level}
    assert FORGETTING.read(run).after.ravel().tolist() == ranks
    assert probe("retrieval", "mrr").read(run | {"probe.retrieval.mrr.delta": 0.0}).after.ravel().tolist() == ranks
