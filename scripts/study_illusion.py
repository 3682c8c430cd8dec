"""Hold the claims of "LoRA vs Full Fine-tuning: An Illusion of Equivalence" (arXiv 2410.21228) against runs.

    python -m harness.run -m experiment=illusion
    python -m analysis.intruders runs/ checkpoints=true
    python -m analysis.interventions run=<id>               # of as many runs as the causal row shall speak of
    python scripts/study_illusion.py runs/

Prints one row a claim and task, as Markdown: holds, does not hold or undecided, with the effect and its interval.
Counts are the paper's ("bare") and those beyond random changes of the same spectrum ("beyond"), means over seeds. All
intervals of a claim hold at once (Bonferroni).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.effects.blocks import effects_of
from analysis.effects.correlations import spearman
from analysis.records import read_runs
from harness.errors import HarnessError

HOLDS, NOT, OPEN = "holds", "does not hold", "undecided"
COUNTS = {"bare": "intruders", "beyond": "intruders_excess"}
LOW, HIGH = 16, 64
"""Ranks: up to the first the paper finds intruders, at the second fewer."""


def judged(low: float, high: float) -> str:
    """Return whether an effect that the claim says is positive is so."""
    return HOLDS if low > 0 else NOT if high < 0 else OPEN


def apart(one: pd.Series, other: pd.Series, family: int) -> tuple[float, float, float]:
    """Return the difference of two means over seeds with its Welch interval, as one of `family` that hold at once."""
    found = stats.ttest_ind(one, other, equal_var=False).confidence_interval(1 - 0.05 / family)
    return float(one.mean() - other.mean()), float(found.low), float(found.high)


def said(value: float, low: float, high: float) -> str:
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def lora_writes(runs: pd.DataFrame, family: int) -> Iterator[tuple[str, str, str]]:
    """LoRA at low rank has more intruders than full fine-tuning, each rank against it."""
    full = runs[runs["method"] == "full"]
    for (method, rank), some in runs[runs["rank"] <= LOW].groupby(["method", "rank"]):
        for name, count in COUNTS.items():
            found = apart(some[count], full[count], family)
            yield f"{name}: {method} r{int(rank)} − full", judged(*found[1:]), said(*found)


def low_rank_writes_more(runs: pd.DataFrame, family: int) -> Iterator[tuple[str, str, str]]:
    """Rank 1 has more intruders than rank 64."""
    for method, some in runs[runs["rank"].notna()].groupby("method"):
        ends = [some[some["rank"] == rank] for rank in (some["rank"].min(), HIGH)]
        if all(len(one) > 1 for one in ends):
            for name, count in COUNTS.items():
                found = apart(ends[0][count], ends[1][count], family)
                yield f"{name}: {method} r{int(some['rank'].min())} − r{HIGH}", judged(*found[1:]), said(*found)


def follows_forgetting(runs: pd.DataFrame, _: int) -> Iterator[tuple[str, str, str]]:
    """Over configurations the count follows what was forgotten, also at constant ‖ΔW‖/‖W0‖."""
    sign = -1 if bool(runs["forgetting_higher_is_better"].iloc[0]) else 1
    means = runs.assign(lost=sign * runs["forgetting"]).groupby("configuration")
    rows = means[[*COUNTS.values(), "lost", "relative_change"]].mean()
    for name, count in COUNTS.items():
        for how, held in (("Spearman", None), ("at constant ‖ΔW‖", rows["relative_change"])):
            found = spearman(rows[count], rows["lost"], held)
            yield f"{name}: {how}", judged(found.low, found.high), str(found)


def scaling_restores(runs: pd.DataFrame, _: int) -> Iterator[tuple[str, str, str]]:
    """Scaling the top intruder down takes back more than every control that removes as much."""
    for run in runs.to_dict("records"):
        for path in sorted(Path(run["folder"]).glob("analysis/interventions/*/verdicts.json")):
            for one in json.loads(path.read_text(encoding="utf-8")):
                word = {"carries": HOLDS, "does not carry": NOT}.get(one["word"], OPEN)
                told = "; ".join(
                    f"{a['curve']} {a['difference']:+.3f} [{a['low']:+.3f}, {a['high']:+.3f}]" for a in one["against"]
                )
                yield f"{run['configuration']} seed {run['seed']}, {one['label']}", word, told


CLAIMS = {
    "LoRA of low rank writes intruder dimensions, full fine-tuning does not": lora_writes,
    "More at low rank": low_rank_writes_more,
    "The count follows forgetting": follows_forgetting,
    "Scaling the top intruder down restores more than the controls": scaling_restores,
}


def main() -> None:
    try:
        table = read_runs(*map(Path, sys.argv[1:])).table
    except HarnessError as error:
        sys.exit(str(error))
    runs = effects_of(table).chosen
    runs = runs[runs["intruders_excess"].notna()].astype(
        {**dict.fromkeys(COUNTS.values(), "float64"), "rank": "float64"}
    )
    print("| claim | task | compared | result | effect [95 %] |\n|---|---|---|---|---|")
    for claim, work in CLAIMS.items():
        rows = [(task, row) for task, some in runs.groupby("task", sort=False) for row in work(some, 1)]
        family = max(1, len(rows))
        rows = [(task, row) for task, some in runs.groupby("task", sort=False) for row in work(some, family)]
        for task, (compared, result, effect) in rows:
            print(f"| {claim} | {task} | {compared} | {result} | {effect} |")


if __name__ == "__main__":
    main()
