"""Hold the claims of "LoRA vs Full Fine-tuning: An Illusion of Equivalence" (arXiv 2410.21228) against runs.

    python -m harness.run -m experiment=illusion
    python -m analysis.intruders runs/
    python -m analysis.interventions run=<id>                    # of as many runs as the causal rows shall speak of
    python -m analysis.interventions run=<id> mode=mitigation
    python scripts/study_illusion.py runs/

Prints one row a comparison, as Markdown: holds, does not hold or undecided, with the effect. Counts are the paper's
("bare") and those beyond random changes of the same spectrum ("beyond"): the count's root less that of its median over
draws, since roots of counts spread alike whatever their size. Low ranks are held against full fine-tuning by Dunnett's
test (1955, J. Am. Stat. Assoc. 50, 1096-1121), orders over ranks and over a sequence's tasks by Page's (1963, J. Am.
Stat. Assoc. 58, 216-230), seeds as blocks. Every p-value is multiplied by the tests that its claim makes.
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.effects.blocks import effects_of
from analysis.effects.correlations import spearman
from analysis.records import read_runs
from harness.errors import HarnessError

HOLDS, NOT, OPEN = "holds", "does not hold", "undecided"
ALPHA = 0.05
COUNTS = ("bare", "beyond")
LOW = 16
"""The highest rank at which the paper finds intruders."""
SEQUENCE = "+"
"""Between the tasks of a sequence."""


class Row(NamedTuple):
    """One comparison of a claim."""

    task: str
    compared: str
    result: str
    effect: str


class Tested(NamedTuple):
    """A comparison whose p-value waits for the number of its claim's comparisons."""

    task: str
    compared: str
    sign: float
    """Above 0 where the effect is as the paper says."""
    p: float
    effect: str
    family: str = ""
    """Whose comparisons share one test already; empty where it is alone."""


def roots(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with both counts on the root scale."""
    bare, chance = np.sqrt(runs["intruders"]), np.sqrt(runs["intruders_null"])
    return runs.assign(bare=bare, beyond=bare - chance)


def corrected(found: list[Tested]) -> Iterator[Row]:
    """Yield a claim's comparisons, each p-value times the number of tests (Bonferroni)."""
    tests = len({(one.task, one.family or one.compared) for one in found})
    for one in found:
        p = min(1.0, one.p * tests)
        result = OPEN if not p < ALPHA else HOLDS if one.sign > 0 else NOT
        yield Row(one.task, one.compared, result, f"{one.effect}; p {'< .001' if p < 0.001 else f'= {p:.3f}'}")


def counted(runs: pd.DataFrame) -> str:
    """Return the mean count, beside that of random changes."""
    return f"{runs['intruders'].mean():.1f} ({runs['intruders_null'].mean():.1f} by chance)"


def lora_writes(runs: pd.DataFrame) -> Iterator[Tested]:
    """LoRA at low rank has more intruders than full fine-tuning, each rank against it."""
    tasks = list(single(runs))
    for task, some in tasks:
        full = some[some["method"] == "full"]
        low = [(*key, rows) for key, rows in some[some["rank"] <= LOW].groupby(["method", "rank"]) if len(rows) > 1]
        if len(full) < 2 or not low:
            continue
        for count in COUNTS:
            level = 1 - ALPHA / (len(COUNTS) * len(tasks))
            found = dunnett([rows[count] for *_, rows in low], full[count], level)
            for (method, rank, rows), (p, ends) in zip(low, found, strict=True):
                sign = float(rows[count].mean() - full[count].mean())
                told = f"{counted(rows)} − {counted(full)}; roots {sign:+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]"
                yield Tested(task, f"{count}: {method} r{rank:g} − full", sign, p, told, count)


def dunnett(
    samples: list[pd.Series],  # type: ignore[type-arg]
    control: pd.Series,  # type: ignore[type-arg]
    level: float,
) -> list[tuple[float, tuple[float, float]]]:
    """Return p-value and interval of each sample's mean less the control's; all hold at once."""
    with warnings.catch_warnings():
        # seeds that agree to the count have no spread at all
        warnings.filterwarnings("ignore", "Precision loss occurred in moment calculation", RuntimeWarning)
        found = stats.dunnett(*samples, control=control, random_state=0)
        ends = found.confidence_interval(level)
    return list(zip(found.pvalue.tolist(), zip(ends.low.tolist(), ends.high.tolist(), strict=True), strict=True))


def low_rank_writes_more(runs: pd.DataFrame) -> Iterator[Tested]:
    """The count falls as the rank rises."""
    for task, some in single(runs):
        for method, rows in some[some["rank"].notna()].groupby("method"):
            for count in COUNTS:
                yield from ordered(rows, "rank", count, -1, (task, f"{count}: {method}, rank"))


def sequences_accumulate(runs: pd.DataFrame) -> Iterator[Tested]:
    """The count rises with the tasks of a sequence, each beginning with the same."""
    most = max((task for task in runs["task"] if SEQUENCE in task), key=len, default="")
    rows = runs[[f"{most}{SEQUENCE}".startswith(f"{task}{SEQUENCE}") for task in runs["task"]]]
    rows = rows.assign(tasks=rows["task"].str.count(r"\+") + 1)
    for (method, rank), some in rows.groupby(["method", "rank"], dropna=False):
        if some["tasks"].nunique() < 2:
            continue
        name = method if pd.isna(rank) else f"{method} r{rank:g}"
        for count in COUNTS:
            yield from ordered(some, "tasks", count, 1, (most, f"{count}: {name}, tasks"))


def ordered(rows: pd.DataFrame, over: str, count: str, rising: int, told: tuple[str, str]) -> Iterator[Tested]:
    """Yield Page's test that a count rises (1) or falls (-1) over a column, seeds as blocks; either side counts."""
    table = rows.pivot_table(index="seed", columns=over, values=count).dropna()
    if table.shape[0] < 2 or table.shape[1] < 3:
        return
    order = np.arange(1, table.shape[1] + 1)[::rising]
    sides = [stats.page_trend_test(table.to_numpy(), predicted_ranks=one).pvalue for one in (order, order[::-1])]
    means = " → ".join(f"{place:g}: {counted(some)}" for place, some in rows.groupby(over))
    task, compared = told
    yield Tested(task, compared, float(sides[1] - sides[0]), min(1.0, 2 * min(sides)), means)


def follows_forgetting(runs: pd.DataFrame) -> Iterator[Tested]:
    """Over configurations the count follows what was forgotten, also at constant ‖ΔW‖/‖W0‖."""
    for task, some in single(runs):
        sign = -1 if bool(some["forgetting_higher_is_better"].iloc[0]) else 1
        means = some.assign(lost=sign * some["forgetting"]).groupby("configuration")
        rows = means[[*COUNTS, "lost", "relative_change"]].mean()
        for count, (how, held) in itertools.product(
            COUNTS, (("Spearman", None), ("at constant ‖ΔW‖", rows["relative_change"]))
        ):
            found = spearman(rows[count], rows["lost"], held)
            p = 1.0 if np.isnan(found.p) else found.p
            yield Tested(task, f"{count}: {how}", found.rho, p, str(found).partition(", p")[0])


def scaling_restores(runs: pd.DataFrame) -> Iterator[Row]:
    """Scaling the top intruder down takes back more than every control that removes as much."""
    for run, one in of_runs(runs, "verdicts"):
        word = {"carries": HOLDS, "does not carry": NOT}.get(one["word"], OPEN)
        told = "; ".join(
            f"{a['curve']} {a['difference']:+.3f} [{a['low']:+.3f}, {a['high']:+.3f}]" for a in one["against"]
        )
        yield Row(run["task"], f"{run['configuration']} seed {run['seed']}, {one['label']}", word, told)


def mitigation_restores(runs: pd.DataFrame) -> Iterator[Row]:
    """Where it has cost as much score, scaling intruders leaves less forgotten than shrinking ΔW as a whole."""
    for run, one in of_runs(runs, "equal_score"):
        if one["word"]:
            word = OPEN
            if one["curve"] == "intruders":
                word = {"forgets less": HOLDS, "forgets more": NOT}.get(one["word"], OPEN)
            what = f"{one['curve']} at -{one['cost']:g}: {run['configuration']} seed {run['seed']}, {one['label']}"
            ends = f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
            yield Row(run["task"], what, word if one["curve"] == "intruders" else one["word"], ends)


def single(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the runs of each task, those of sequences left out."""
    yield from runs[~runs["task"].str.contains(SEQUENCE, regex=False)].groupby("task", sort=False)


def of_runs(runs: pd.DataFrame, name: str) -> Iterator[tuple[dict, dict]]:  # type: ignore[type-arg]
    """Yield each entry of a file that the causal test left beside a run, with that run."""
    for run in runs.to_dict("records"):
        for path in sorted(Path(run["folder"]).glob(f"analysis/interventions/*/{name}.json")):
            for one in json.loads(path.read_text(encoding="utf-8")):
                yield run, one


def rows_of(runs: pd.DataFrame) -> Iterator[tuple[str, Row]]:
    """Yield each claim with each of its comparisons."""
    for claim, test in (
        ("LoRA of low rank writes intruder dimensions, full fine-tuning does not", lora_writes),
        ("More at low rank", low_rank_writes_more),
        ("Sequences of tasks accumulate them", sequences_accumulate),
        ("The count follows forgetting", follows_forgetting),
    ):
        yield from ((claim, row) for row in corrected(list(test(runs))))
    for claim, read in (
        ("Scaling the top intruder down restores more than the controls", scaling_restores),
        ("At equal task score, less is left forgotten than by shrinking ΔW", mitigation_restores),
    ):
        yield from ((claim, row) for row in read(runs))


def main() -> None:
    try:
        table = read_runs(*map(Path, sys.argv[1:])).table
    except HarnessError as error:
        sys.exit(str(error))
    runs = effects_of(table).chosen
    numbers = ["intruders", "intruders_null", "rank", "relative_change", "forgetting"]
    runs = roots(runs[runs["intruders_excess"].notna()].astype(dict.fromkeys(numbers, "float64")))
    print("| claim | task | compared | result | effect |\n|---|---|---|---|---|")
    for claim, row in rows_of(runs):
        print(f"| {claim} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
