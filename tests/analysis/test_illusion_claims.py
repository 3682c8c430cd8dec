"""The study's claims on made runs: each must be found where it was put, found refuted, and left open by chance."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "study_illusion.py"
RANKS = (1, 2, 4, 8, 16, 64)
WRITES, LOW_RANK, SEQUENCE = "LoRA of low rank writes intruder", "More at low rank", "Sequences of tasks"
TOGETHER = "LoRA of low rank writes more than random"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("study_illusion", SCRIPT)
    assert spec is not None and spec.loader is not None
    sys.modules["study_illusion"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(counts: dict[float, float], null: dict[float, float], task: str = "trec", seed: int = 0) -> pd.DataFrame:
    """Return three seeds of LoRA at each rank and of full fine-tuning (rank 0), Poisson counts of the given means."""
    random = np.random.default_rng(seed)
    draws = {rank: random.poisson(null[rank], (3, 20)) for rank in counts}
    rows = [
        {
            "task": task,
            "method": "lora" if rank else "full",
            "rank": rank or np.nan,
            "seed": one,
            "configuration": f"lora r{rank}" if rank else "full",
            "config.method.alpha": np.nan,
            "intruders": float(random.poisson(mean)),
            "intruders_null": float(np.median(draws[rank][one])),
            "chance_roots": float(np.sqrt(draws[rank][one]).mean()),
            "forgetting": -0.1 - 0.01 * mean,
            "forgetting_higher_is_better": True,
            "relative_change": 0.1 + 0.01 * rank,
            "folder": "nowhere",
        }
        for rank, mean in counts.items()
        for one in range(3)
    ]
    return pd.DataFrame(rows)


def results(study: ModuleType, runs: pd.DataFrame, claim: str) -> dict[str, str]:
    return {row.compared: row.result for name, row in study.rows_of(study.roots(runs)) if name.startswith(claim)}


FALLING = {0: 0.0, 1: 24.0, 2: 16.0, 4: 10.0, 8: 6.0, 16: 3.0, 64: 1.0}
NONE = dict.fromkeys(FALLING, 0.0)


def test_intruders_beyond_chance_are_found_and_that_they_fall_with_the_rank(study):
    found = results(study, made(FALLING, NONE), WRITES)
    assert found["bare: lora r1 − full"] == found["beyond: lora r1 − full"] == study.HOLDS
    assert len(found) == 10  # five low ranks, both counts: rank 64 is none
    order = results(study, made(FALLING, NONE), LOW_RANK)
    assert order == {"bare: lora, rank": study.HOLDS, "beyond: lora, rank": study.HOLDS}


def test_counts_that_chance_makes_too_are_no_finding_beyond_it(study):
    found = results(study, made(FALLING, FALLING), WRITES)
    assert found["bare: lora r1 − full"] == study.HOLDS
    assert {result for name, result in found.items() if name.startswith("beyond")} == {study.OPEN}


def test_counts_that_rise_with_the_rank_refute_the_claim(study):
    rising = dict(zip((0, *RANKS), (0.0, *sorted(FALLING.values())[1:]), strict=True))
    assert results(study, made(rising, NONE), LOW_RANK)["bare: lora, rank"] == study.NOT


def test_a_fixed_alpha_is_a_family_of_its_own_and_shares_the_rank_at_which_it_is_2r(study):
    """α = 8 is α = 2r at rank 4: those runs stand in both orders, and once among the rows against full tuning."""
    fixed = made(dict(zip((1, 2, 8, 16, 64), (1.0, 3.0, 20.0, 30.0, 40.0), strict=True)), NONE, seed=1)
    runs = pd.concat([made(FALLING, NONE), fixed.assign(**{"config.method.alpha": 8.0})], ignore_index=True)
    found = results(study, runs, LOW_RANK)
    assert found["bare: lora α=2r, rank"] == study.HOLDS
    assert found["bare: lora α=8, rank"] == study.NOT
    shown = {row.compared: row.effect for _, row in study.rows_of(study.roots(runs))}
    assert "4: " in shown["bare: lora α=2r, rank"] and "4: " in shown["bare: lora α=8, rank"]
    compared = results(study, runs, WRITES)
    assert "bare: lora α=2r r4 − full" in compared and "bare: lora α=8 r4 − full" not in compared
    assert len(compared) == 18  # five ranks of α = 2r, four of α = 8, both counts


def test_all_configurations_together_find_what_each_alone_cannot(study):
    """A tenth more than chance at every rank is open for each of them, and found over the five low ranks."""
    chance = dict.fromkeys(FALLING, 400.0)
    runs = made(dict.fromkeys(FALLING, 440.0), chance)
    assert set(results(study, runs, TOGETHER).values()) == {study.HOLDS}
    fewer = made(chance, dict.fromkeys(FALLING, 440.0))
    assert set(results(study, fewer, TOGETHER).values()) == {study.NOT}


@pytest.mark.parametrize("mean", [0.3, 1.0, 400.0])
def test_counts_as_chance_makes_them_are_seldom_beyond_it(study, mean):
    """Small counts too: the median of such draws is often 0, and a count less that would never be below chance."""
    chance = dict.fromkeys(FALLING, mean)
    false = sum(study.OPEN not in results(study, made(chance, chance, seed=s), TOGETHER).values() for s in range(40))
    assert false <= 5


def test_a_configuration_that_trains_like_another_counts_once(study):
    runs = made(FALLING, NONE)
    twin = runs[runs["rank"] == 16].assign(method="rslora", configuration="rslora r16", chance_roots=9.0)
    both = pd.concat([runs, twin], ignore_index=True)
    for claim in ("The count follows forgetting", TOGETHER):
        effects = [
            {row.compared: row.effect for name, row in study.rows_of(study.roots(some)) if name.startswith(claim)}
            for some in (runs, both)
        ]
        assert effects[0] == effects[1] != {}


def test_equal_counts_are_seldom_told_apart(study):
    """Of 40 studies without any effect 5 % may have a false finding among their rows; 6 have a chance of 1 %."""
    equal = dict.fromkeys(FALLING, 4.0)
    false = 0
    for seed in range(40):
        runs = made(equal, equal, seed=seed)
        false += any(result != study.OPEN for result in results(study, runs, WRITES).values())
    assert false <= 5


def test_a_sequence_that_accumulates_is_found_and_its_tasks_are_no_rows_of_other_claims(study):
    parts = [made({1: mean}, {1: 2.0}, task, 3) for task, mean in (("a", 2), ("a+b", 12), ("a+b+c", 30))]
    runs = pd.concat([*parts, made({1: 9.0}, {1: 2.0}, "other", 3)])
    found = results(study, runs, SEQUENCE)
    assert found == {"bare: lora r1, tasks": study.HOLDS, "beyond: lora r1, tasks": study.HOLDS}
    falling = pd.concat([one.assign(task=task) for one, task in zip(parts[::-1], ("a", "a+b", "a+b+c"), strict=True)])
    assert results(study, falling, SEQUENCE)["bare: lora r1, tasks"] == study.NOT
    assert results(study, runs, WRITES) == results(study, runs, LOW_RANK) == {}


def test_the_correlation_with_forgetting_has_a_row_for_each_count_and_way(study):
    found = results(study, made(FALLING, NONE), "The count follows forgetting")
    assert found["bare: Spearman"] == study.HOLDS
    turned = made(FALLING, NONE).assign(forgetting_higher_is_better=False)
    assert results(study, turned, "The count follows forgetting")["bare: Spearman"] == study.NOT
    assert set(found) == {f"{count}: {how}" for count in study.COUNTS for how in ("Spearman", "at constant ‖ΔW‖")}
