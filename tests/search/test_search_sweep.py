"""A sweep that searches: which runs it trains, in which order, and what it does when something is in the way."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from simulated import Cluster, Curve, Killed, bell

from harness import sweep
from harness.config import Purpose, RunConfig
from harness.errors import ConfigError
from harness.identity import learning_rate, run_id
from harness.storage.record import read_record


@pytest.fixture(autouse=True)
def _nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "prepare", lambda runs: None)
    monkeypatch.setattr("harness.table.print_results", lambda folders: None)


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    # At rank 64 LoRA's default rate is 1e-3.
    return [
        "search=learning_rate",
        "rank=64",
        "model=bert_tiny",
        "task=trec",
        "tracker=none",
        f"output_dir={tmp_path / 'runs'}",
    ]


def jobs(base: list[str], *choices: str, seeds: tuple[int, ...] = (0, 1)) -> list[list[str]]:
    return [[*base, *choice.split(), f"seed={seed}"] for choice in choices for seed in seeds]


def rates(configs: list[RunConfig]) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {}
    for config in configs:
        found.setdefault(config.method.name, set()).add(learning_rate(config))
    return found


def record(config: RunConfig) -> dict[str, Any]:
    return read_record(Path(config.output_dir) / run_id(config))


def test_each_configuration_is_searched_and_reported_on_fresh_seeds(base: list[str]) -> None:
    cluster = Cluster(lambda config: bell(1e-2 if config.method.name == "lora" else 1.78e-4)(config))
    assert cluster.sweep(*jobs(base, "method=lora", "method=full")) == 0
    assert {config.seed for config in cluster.searched()} == {1000}
    assert sorted(config.seed for config in cluster.reported()) == [0, 0, 1, 1]
    assert rates(cluster.reported()) == {"lora": {1e-2}, "full": {1.78e-4}}
    assert rates(cluster.searched())["full"] == {5.62e-5, 1.78e-4, 5.62e-4}
    assert rates(cluster.searched())["lora"] == {3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2}
    assert cluster.rounds == [6, 1, 1, 4]  # of independent runs


def test_runs_of_the_search_see_no_test_items_and_no_probes(base: list[str]) -> None:
    cluster = Cluster(bell(1e-3))
    cluster.sweep(*jobs(base, "method=lora forgetting=full train.eval_steps=5"))
    assert {(c.held_out, c.forgetting.active, c.train.eval_steps) for c in cluster.searched()} == {
        (("validation",), False, 0)
    }
    assert {(c.held_out, c.forgetting.active) for c in cluster.reported()} == {(("validation", "test"), True)}


def test_the_same_command_trains_nothing_more(base: list[str]) -> None:
    first, again = Cluster(bell(3e-3)), Cluster(bell(3e-3))
    first.sweep(*jobs(base, "method=lora", "method=bitfit"))
    assert again.sweep(*jobs(base, "method=lora", "method=bitfit")) == 0
    assert again.trained == []
    assert len(first.ids) == len(set(first.ids))


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_a_random_moment_it_trains_the_same_runs_and_chooses_the_same(
    seed: int, base: list[str], tmp_path: Path
) -> None:
    asked = jobs(base, "method=lora rank=4", "method=full", seeds=(0,))
    curve = bell(2e-3)
    whole = Cluster(curve)
    whole.sweep(*[[*job, f"output_dir={tmp_path / 'whole'}"] for job in asked])
    moments = random.Random(seed)
    ids: list[str] = []
    while True:
        one = Cluster(curve, dies_before=moments.randrange(1, 9))
        try:
            one.sweep(*asked)
        except Killed:
            ids += one.ids
            continue
        ids += one.ids
        break
    assert sorted(ids) == sorted(whole.ids)  # none twice, none left out
    assert record(one.reported()[-1])["search"] == record(whole.reported()[-1])["search"]


def test_what_another_process_trains_is_waited_for_and_read(base: list[str], tmp_path: Path) -> None:
    shared, alone = Cluster(bell(1e-2), others=True), Cluster(bell(1e-2))
    assert shared.sweep(*jobs(base, "method=lora", "method=full")) == 0
    alone.sweep(*jobs([*base[:-1], f"output_dir={tmp_path / 'alone'}"], "method=lora", "method=full"))
    assert len(shared.ids) < len(alone.ids)
    searches = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs/.search").iterdir())]
    assert searches == [json.loads(path.read_text()) for path in sorted((tmp_path / "alone/.search").iterdir())]


def test_a_wider_budget_adds_runs_and_brings_the_records_up_to_date(base: list[str]) -> None:
    few, many = Cluster(bell(1e-2)), Cluster(bell(1e-2))
    few.sweep(*jobs(base, "method=lora search.max_runs=3"))
    old = few.reported()[0]
    assert record(old)["search"]["why"] == "search.max_runs=3 reached: a larger rate may be better"
    many.sweep(*jobs(base, "method=lora"))
    assert len(many.searched()) == 2 and not set(many.ids) & set(few.ids)
    found = record(many.reported()[0])["search"]
    assert (found["chosen"], found["warning"], found["why"]) == (0.01, False, "the optimum lies inside")
    assert [run["rate"] for run in found["tried"]] == [1e-3, 3.16e-3, 3.16e-4, 1e-2, 3.16e-2]


def test_a_rate_that_was_given_before_is_not_trained_again(base: list[str]) -> None:
    given = Cluster(bell(1e-3))
    given.sweep(*jobs([*base[1:], "search=none"], "method=lora train.learning_rate=1e-3"))
    searched = Cluster(bell(1e-3))
    searched.sweep(*jobs(base, "method=lora"))
    assert searched.reported() == []
    assert record(given.trained[0])["search"]["chosen"] == 1e-3


def test_the_search_starts_where_it_is_told(base: list[str]) -> None:
    cluster = Cluster(bell(1e-1))
    cluster.sweep(*jobs(base, "method=lora train.learning_rate=0.1"))
    assert rates(cluster.searched()) == {"lora": {0.0316, 0.1, 0.316}}


def test_searches_from_two_rungs_of_the_ladder_share_their_runs(base: list[str]) -> None:
    first, again = Cluster(bell(1e-3)), Cluster(bell(1e-3))
    first.sweep(*jobs(base, "method=lora"))
    again.sweep(*jobs(base, "method=lora train.learning_rate=0.00316"))
    assert rates(again.searched()) == {"lora": {1e-2}}  # the start and half a decade below were tried
    assert again.reported() == []


def test_what_is_swept_besides_gets_its_own_search(base: list[str], tmp_path: Path) -> None:
    cluster = Cluster(lambda config: bell(1e-2 if config.method.alpha == 4 else 1e-3)(config))
    cluster.sweep(*jobs(base, "method=lora method.alpha=4", "method=lora method.alpha=64"))
    reported = {(config.method.alpha, learning_rate(config)) for config in cluster.reported()}
    assert reported == {(4, 1e-2), (64, 1e-3)}
    names = {json.loads(path.read_text())["configuration"] for path in (tmp_path / "runs/.search").iterdir()}
    assert names == {"lora r64 method.alpha=4", "lora r64 method.alpha=64"}


def diverging(config: RunConfig) -> float | str:
    return "diverged: the loss is not finite at step 3" if config.method.name == "full" else bell(1e-3)(config)


def broken(config: RunConfig) -> float | str:
    return "failed: no space left on the disk" if config.method.name == "full" else bell(1e-3)(config)


@pytest.mark.parametrize(
    ("curve", "line", "code"),
    [
        (diverging, "full: no learning rate found: search.max_runs=4 reached: all rates were worst", 1),
        (broken, "full: failed: no space left on the disk", 1),
    ],
)
def test_one_that_finds_no_rate_says_so_and_the_sweep_goes_on(
    curve: Curve, line: str, code: int, base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(curve)
    assert cluster.sweep(*jobs(base, "method=full search.max_runs=4", "method=lora search.max_runs=4")) == code
    assert f"not trained: {line}" in capsys.readouterr().err
    assert rates(cluster.reported()) == {"lora": {1e-3}}


def test_what_diverged_is_known_and_what_failed_is_tried_again(base: list[str]) -> None:
    for curve, more in ((diverging, 0), (broken, 3)):
        folder = f"{base[-1]}-{curve.__name__}"
        asked = jobs([*base[:-1], folder], "method=full search.max_runs=3")
        Cluster(curve).sweep(*asked)
        again = Cluster(curve)
        again.sweep(*asked)
        assert len(again.searched()) == more


def test_a_damaged_record_ends_its_own_search_alone_and_is_left_as_it_is(
    base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = jobs(base, "method=lora", "method=full", seeds=(0,))
    Cluster(bell(1e-3)).sweep(*asked[:1])
    records = Path(base[-1].partition("=")[2]).glob("*/record.json")
    damaged = next(path for path in records if read_record(path.parent)["purpose"] == "search")
    damaged.write_text("{")
    cluster = Cluster(bell(1e-4))
    assert cluster.sweep(*asked) == 1
    assert rates(cluster.reported()) == {"full": {1e-4}}
    assert damaged.read_text() == "{"
    assert f"not trained: lora r64: no learning rate found: {damaged}: damaged" in capsys.readouterr().err


def test_a_method_that_does_not_apply_is_reported_as_such(base: list[str]) -> None:
    def curve(config: RunConfig) -> float | str:
        return "not_applicable: it has no biases" if config.method.name == "bitfit" else bell(1e-3)(config)

    cluster = Cluster(curve)
    assert cluster.sweep(*jobs(base, "method=bitfit", "method=lora")) == 0
    assert [record(c)["status"] for c in cluster.reported() if c.method.name == "bitfit"] == ["not_applicable"] * 2
    assert rates(cluster.reported())["lora"] == {1e-3}


def test_an_optimum_at_the_edge_is_a_warning_in_the_record(base: list[str]) -> None:
    cluster = Cluster(lambda config: min(0.9, 0.1 + 0.05 * learning_rate(config) ** 0.3 * 10))
    cluster.sweep(*jobs(base, "method=lora search.max_runs=4"))
    found = record(cluster.reported()[0])["search"]
    assert found["warning"]
    assert found["why"] == "search.max_runs=4 reached: a larger rate may be better"


def test_five_validation_items_end_by_the_budget(base: list[str]) -> None:
    cluster = Cluster(lambda config: 0.2 * (int(run_id(config)[-1], 16) % 6), items=5)
    cluster.sweep(*jobs(base, "method=lora search.max_runs=4"))
    assert len(cluster.searched()) <= 4
    assert len(cluster.reported()) == 2


def test_two_runs_at_most(base: list[str]) -> None:
    cluster = Cluster(bell(1e-3))
    cluster.sweep(*jobs(base, "method=lora search.max_runs=2"))
    assert rates(cluster.searched()) == {"lora": {1e-3, 3.16e-3}}
    assert rates(cluster.reported()) == {"lora": {1e-3}}


@pytest.mark.parametrize(
    ("choices", "seeds", "message"),
    [
        (["method=lora"], (0, 1000), "seed=1000: is the search's own"),
        (
            ["method=lora train.learning_rate=1e-3", "method=lora train.learning_rate=1e-2"],
            (0,),
            "train.learning_rate=0.001, 0.01: search=learning_rate finds it",
        ),
        (["method=lora +sequence=[trec,boolq]"], (0,), "a sequence has no one validation score"),
    ],
)
def test_refused_in_one_line(choices: list[str], seeds: tuple[int, ...], message: str, base: list[str]) -> None:
    with pytest.raises(ConfigError, match=message):
        Cluster(bell(1e-3)).sweep(*jobs(base, *choices, seeds=seeds))


def test_dry_run_says_the_plan_the_most_it_costs_and_the_time(
    base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = jobs([*base, "dry_run=true"], "method=lora", "method=full")
    Cluster(bell(1e-3)).sweep(*asked)
    said = capsys.readouterr().out
    assert "10  lora r64: 0 rates tried, next 0.001, 0.00316, 0.000316" in said
    assert "configurations: 2, runs at most: 20, time not known before a first run" in said
    cluster = Cluster(bell(1e-3), dies_before=6)
    with pytest.raises(Killed):
        cluster.sweep(*jobs(base, "method=lora", "method=full"))
    Cluster(bell(1e-3)).sweep(*asked)
    said = capsys.readouterr().out
    assert "learning rate 0.001 of 3 tried (0.000316, 0.001, 0.00316); the optimum lies inside; 33 s a run" in said
    assert "full: 3 rates tried, next" in said
    assert "configurations: 2, runs at most: 9, about 5 min at most" in said  # 2 + (8 − 3 + 2) runs of 33 s


def test_every_search_run_is_marked(base: list[str]) -> None:
    cluster = Cluster(bell(1e-3))
    cluster.sweep(*jobs(base, "method=lora"))
    assert {record(config)["purpose"] for config in cluster.searched()} == {"search"}
    assert all(run_id(c) != run_id(r) for c in cluster.searched() for r in cluster.reported())
    assert {config.purpose for config in cluster.reported()} == {Purpose.result}
