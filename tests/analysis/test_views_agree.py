"""Tables, files, figures, the page and W&B show the same effects: the same numbers and the same verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import Made, make_sweep

from analysis.effects.blocks import effects_of
from analysis.effects.comparisons import Comparison, compare, signed
from analysis.effects.outcomes import FORGETTING, LEARNING
from analysis.effects.pareto import pareto
from analysis.effects.verdicts import Verdict
from analysis.exchange.wandb.findings import verdicts as wandb_verdicts
from analysis.records import read_runs
from analysis.table import COMMAND
from analysis.views.drawing.command import figures
from analysis.views.drawing.page import pages
from analysis.views.report.verdicts import verdicts as page_verdicts
from analysis.views.table.command import tabulate as make_tables
from analysis.views.table.grouped import grouped
from analysis.views.table.writing import interval

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.slow]
SCORES = {"lora": 0.9, "rslora": 0.9, "full": 0.8, "bitfit": 0.885}
LABELS = ("lora r8", "rslora r8", "full", "bitfit")
Key = tuple[str, str]


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    lost = {"lora": 0.1, "rslora": 0.1, "full": 1.0, "bitfit": 0.3}

    def made(method: str, rank: int, rate: float, seed: int) -> Made:
        return Made(SCORES[method] + 0.005 * seed, items=600, agreement=1.0, forgetting=lost[method] + 0.01 * seed)

    make_sweep(tmp_path / "runs", SCORES, made=made)
    return read_runs(tmp_path / "runs").table


@pytest.fixture
def forgot(table: pd.DataFrame) -> dict[Key, Comparison]:
    return {(one.first, one.second): one for one in compare(effects_of(table), outcome=FORGETTING).found}


@pytest.fixture
def made(table: pd.DataFrame) -> dict[Key, Comparison]:
    found = {(one.first, one.second): one for one in compare(effects_of(table)).found}
    assert {one.result for one in found.values()} == set(Verdict)  # all four verdicts are shown
    return found


def test_the_table_prints_and_writes_the_comparisons(
    tmp_path: Path, made: dict[Key, Comparison], capsys: pytest.CaptureFixture[str]
) -> None:
    make_tables(COMMAND.parse([str(tmp_path / "runs"), "compare=true", f"out={tmp_path / 'out'}"]))
    printed = capsys.readouterr().out
    assert all(f"\n{one.verdict}\n" in printed for one in made.values())
    written = pd.read_parquet(tmp_path / "out" / "comparisons.parquet").set_index(["first", "second"])
    shown = pd.read_csv(tmp_path / "out" / "comparisons.csv").set_index(["first", "second"])
    for key, one in made.items():
        row = written.loc[key]
        assert (row["difference"], row["low"], row["high"]) == pytest.approx((one.difference, one.low, one.high))
        assert row["p_family"] == pytest.approx(one.p_family)
        assert (row["result"], row["verdict"]) == (one.result, one.verdict)
        assert shown.loc[key, "low"] == pytest.approx(one.low)
    text = (tmp_path / "out" / "comparisons.md").read_text(encoding="utf-8")
    assert all(f"{signed(one.difference)} [{signed(one.low)}, {signed(one.high)}]" in text for one in made.values())
    assert all(one.outcome in text for one in made.values())


def test_the_page_shows_the_comparisons(
    table: pd.DataFrame, made: dict[Key, Comparison], forgot: dict[Key, Comparison]
) -> None:
    shown = page_verdicts(table)
    for pairs, expected in ((shown.pairs, made), (shown.forgotten, forgot)):
        assert {(pair.first, pair.second) for pair in pairs} == set(expected)
        for pair in pairs:
            one = expected[pair.first, pair.second]
            assert pair.outcome == one.outcome
            assert pair.difference == f"{signed(one.difference)} [{signed(one.low)}, {signed(one.high)}]"
            assert pair.p == f"{one.p_family:.2g}"


def test_wandb_gets_the_comparisons(
    table: pd.DataFrame, made: dict[Key, Comparison], forgot: dict[Key, Comparison]
) -> None:
    sent = pd.concat(wandb_verdicts(table).values())
    for outcome, expected in ((LEARNING, made), (FORGETTING, forgot)):
        rows = sent[sent["outcome"] == outcome.key]
        assert {(row.first, row.second) for row in rows.itertuples()} == set(expected)
        for row in rows.itertuples():
            one = expected[row.first, row.second]
            numbers = (row.difference, row.low, row.high, row.p_family)
            assert numbers == (one.difference, one.low, one.high, one.p_family)
            assert (row.result, row.verdict) == (one.result, one.verdict)
            assert (None if pd.isna(row.ahead) else row.ahead) == one.ahead


def test_table_figures_fronts_and_page_have_the_same_estimates(table: pd.DataFrame) -> None:
    effects = effects_of(table)
    (block,) = effects.blocks
    learned, lost = block.effects(LEARNING), block.effects(FORGETTING)
    rows = grouped(effects.chosen, found=effects).rows.set_index("configuration")
    (page,) = pages(table)
    drawn = figures(("pareto",))[0].data(page)
    drawn.index = [one["method"] + ("" if pd.isna(one["rank"]) else f" r{one['rank']}") for _, one in drawn.iterrows()]
    ranked = figures(("forgetting_rank",))[0].data(page)
    front = pareto(effects).rows.set_index("configuration")
    over_seeds = page_verdicts(table).over_seeds
    assert over_seeds is not None
    assert set(learned) == set(rows.index) == set(drawn.index) == set(front.index) and len(ranked) == len(learned)
    for label in learned:
        score, change = ((one[label].estimate.value, *one[label].interval()) for one in (learned, lost))
        assert tuple(rows.loc[label, ["score", "score_low", "score_high"]]) == pytest.approx(score)
        assert tuple(rows.loc[label, [f"forgetting{end}" for end in ("", "_low", "_high")]]) == pytest.approx(change)
        assert tuple(drawn.loc[label, ["value", "low", "high"]]) == pytest.approx(score)
        names = [f"forgetting_{end}" for end in ("value", "low", "high")]
        assert tuple(drawn.loc[label, names]) == pytest.approx(change)
        assert tuple(front.loc[label, ["learning", "forgetting"]]) == pytest.approx((score[0], change[0]))
        assert any(np.allclose(change, row) for row in ranked[["value", "low", "high"]].to_numpy())
        (line,) = [row for row in over_seeds.rows if row[0] == label]
        assert f"accuracy {interval(rows.loc[label], 'score')}" in line


def test_the_page_opens_with_the_verdicts_in_words(table: pd.DataFrame, made: dict[Key, Comparison]) -> None:
    (answer,) = page_verdicts(table).answers
    assert answer.best in ("lora r8", "rslora r8")
    kinds = {Verdict.equivalent: answer.equivalent, Verdict.undecided: answer.undecided}
    for one in made.values():
        if answer.best in (one.first, one.second):
            other = one.second if one.first == answer.best else one.first
            assert other in (answer.worse if one.ahead else kinds[one.result])
    assert set(answer.worse) | set(answer.equivalent) | set(answer.undecided) | {answer.best} == set(LABELS)
    said = " ".join(answer.sentences)
    assert said.startswith(f"bert_tiny, trec: {answer.best} has the best mean (accuracy .905 [")
    assert "full is shown to be worse." in said and "equivalent to it within 0.02." in said
    assert "bitfit is undecided against it; to decide a difference of 0.02 takes about " in said
    assert "Change of lm_loss made/loss: from " in said and "None of them is shown to forget less" in said


def test_against_one_configuration_the_answer_says_what_is_compared(table: pd.DataFrame) -> None:
    (answer,) = page_verdicts(table, "full").answers
    assert answer.best == "full" and not answer.worse
    assert answer.sentences[1].startswith("All are compared with full (accuracy .805 [")
    assert any(line.endswith("are shown to be better.") for line in answer.sentences)
