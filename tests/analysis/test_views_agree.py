"""The table, its files, the page and W&B show the same comparisons: the same numbers and the same verdicts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from made_runs import Made, make_sweep

from analysis.compare import Comparison, compare, signed
from analysis.effects.verdicts import Verdict
from analysis.fairness import fair
from analysis.records import read_runs
from analysis.report.verdicts import verdicts as page_verdicts
from analysis.table.command import run as make_tables
from analysis.table.settings import parse
from analysis.wandb_results.verdicts import verdicts as wandb_verdicts

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.slow]
SCORES = {"lora": 0.9, "rslora": 0.9, "full": 0.8, "bitfit": 0.885}
Key = tuple[str, str]


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    made = lambda method, rank, rate, seed: Made(SCORES[method] + 0.005 * seed, items=600, agreement=1.0)  # noqa: E731
    make_sweep(tmp_path / "runs", SCORES, made=made)
    return read_runs(tmp_path / "runs").table


@pytest.fixture
def made(table: pd.DataFrame) -> dict[Key, Comparison]:
    found = {(one.first, one.second): one for one in compare(fair(table).chosen).found}
    assert {one.result for one in found.values()} == set(Verdict)  # all four verdicts are shown
    return found


def test_the_table_prints_and_writes_the_comparisons(
    tmp_path: Path, made: dict[Key, Comparison], capsys: pytest.CaptureFixture[str]
) -> None:
    make_tables(parse([str(tmp_path / "runs"), "compare=true", f"out={tmp_path / 'out'}"]))
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


def test_the_page_shows_the_comparisons(table: pd.DataFrame, made: dict[Key, Comparison]) -> None:
    pairs = page_verdicts(table).pairs
    assert {(pair.first, pair.second) for pair in pairs} == set(made)
    for pair in pairs:
        one = made[pair.first, pair.second]
        assert pair.outcome == one.outcome
        assert pair.difference == f"{signed(one.difference)} [{signed(one.low)}, {signed(one.high)}]"
        assert pair.p == f"{one.p_family:.2g}"


def test_wandb_gets_the_comparisons(table: pd.DataFrame, made: dict[Key, Comparison]) -> None:
    sent = pd.concat(wandb_verdicts(table).values())
    assert {(row.first, row.second) for row in sent.itertuples()} == set(made)
    for row in sent.itertuples():
        one = made[row.first, row.second]
        assert (row.difference, row.low, row.high, row.p_family) == (one.difference, one.low, one.high, one.p_family)
        assert (row.result, row.verdict) == (one.result, one.verdict)
        assert (None if pd.isna(row.ahead) else row.ahead) == one.ahead
