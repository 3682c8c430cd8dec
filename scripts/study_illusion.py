"""Hold the claims of "LoRA vs Full Fine-tuning: An Illusion of Equivalence" (arXiv 2410.21228) against runs.

    python -m harness.run -m experiment=illusion
    python -m analysis.intruders runs/
    python -m analysis.interventions run=<id>                    # of as many runs as the causal rows shall speak of
    python -m analysis.interventions run=<id> mode=mitigation
    python scripts/study_illusion.py runs/

Prints the counts, and one row a comparison, as Markdown: holds, does not hold or undecided, with the effect. Counts are
the paper's ("bare") and those beyond random changes of the same spectrum ("beyond"): the count's root less the mean of
the draws' roots, since roots of counts spread alike whatever their size. So low ranks are held against full tuning
by Student's t with the spread of all configurations of a task; orders over ranks and over a sequence's tasks by Page's
test (1963, J. Am. Stat. Assoc. 58, 216-230), seeds as blocks. Every p-value is multiplied by the comparisons that its
claim makes, and intervals are as wide.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas.core.groupby import SeriesGroupBy
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.effects.blocks import effects_of
from analysis.effects.correlations import spearman
from analysis.records import read_runs
from analysis.records.files import intruder_headline
from harness.errors import HarnessError

HOLDS, NOT, OPEN = "holds", "does not hold", "undecided"
ALPHA = 0.05
COUNTS = ("bare", "beyond")
LOW = 16
"""The highest rank at which the paper finds intruders."""
FEWEST = 4
"""Configurations of which a correlation has an interval."""
SEQUENCE = "+"
"""Between the tasks of a sequence."""
ALPHA_GIVEN = "config.method.alpha"
"""The column of LoRA's α as it was given; missing where it follows the rank, α = 2r, or where there is none."""


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


def roots(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with both counts on the root scale."""
    bare = np.sqrt(runs["intruders"])
    return runs.copy().assign(bare=bare, beyond=bare - runs["chance_roots"])


def chance_roots(folder: str) -> float:
    """Return the mean root of the counts that random changes of a run's own spectrum have, draw by draw.

    Not the root of their median: that of small counts is often 0, and no count lies below it.
    """
    (one,) = [one for one in intruder_headline(folder) if one["control"] == "spectrum" and one["step"] is None]
    return float(np.sqrt(one["draws"]["intruders_u"]).mean())


def corrected(found: list[Tested]) -> Iterator[Row]:
    """Yield a claim's comparisons, each p-value times their number (Bonferroni)."""
    for one in found:
        p = min(1.0, one.p * len(found))
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
        low = [one for one in by_rank(some[some["rank"] <= LOW]) if len(one[2]) > 1]
        for (family, rank, rows), count in itertools.product(low if len(full) > 1 else [], COUNTS):
            difference, error, freedom = apart(rows[count], full[count], some.groupby("configuration")[count])
            tests = len(low) * len(COUNTS) * len(tasks)
            reach = error * float(stats.t.ppf(1 - ALPHA / 2 / tests, freedom))
            p = 2 * float(stats.t.sf(abs(difference) / error, freedom)) if error else float(difference == 0)
            ends = f"{difference:+.1f} [{difference - reach:+.1f}, {difference + reach:+.1f}]"
            told = f"{counted(rows)} − {counted(full)}; roots {ends}"
            yield Tested(task, f"{count}: {family} r{rank:g} − full", difference, p, told)


def families(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each method's runs by how α goes with the rank: α = 2r where none is given, or the same at every rank.

    Where 2r is a given α, one configuration belongs to both.
    """
    for method, rows in runs.groupby("method"):
        given, default = rows[ALPHA_GIVEN], rows[rows[ALPHA_GIVEN].isna()]
        if default.empty or not given.notna().any():
            yield str(method), rows
            continue
        yield f"{method} α=2r", default
        for alpha in sorted(given.dropna().unique()):
            yield f"{method} α={alpha:g}", rows[given.eq(alpha) | (given.isna() & rows["rank"].eq(alpha / 2))]


def by_rank(runs: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Yield the runs of each family and rank; those in two families once."""
    seen: set[object] = set()
    for family, some in families(runs):
        for rank, rows in some.groupby("rank"):
            if not seen & set(rows.index):
                yield family, float(rank), rows
            seen |= set(rows.index)


def apart(one: pd.Series, other: pd.Series, every: SeriesGroupBy) -> tuple[float, float, float]:  # type: ignore[type-arg]
    """Return the difference of two means, its standard error by the spread of all configurations, and the freedom."""
    freedom = float((every.count() - 1).sum())
    variance = float((every.var(ddof=1) * (every.count() - 1)).sum()) / freedom
    return float(one.mean() - other.mean()), (variance * (1 / len(one) + 1 / len(other))) ** 0.5, freedom


def beyond_chance(runs: pd.DataFrame) -> Iterator[Tested]:
    """All trainings at low rank together have more intruders than random changes: Student's t over configurations."""
    each = {task: distinct(some[some["rank"] <= LOW])["beyond"] for task, some in single(runs)}
    if len(each) > 1:
        each["all tasks"] = pd.concat(each.values())
    for task, means in each.items():
        if len(means) >= FEWEST and means.var() > 0:
            found = stats.ttest_1samp(means, 0)
            ends = found.confidence_interval(1 - ALPHA / len(each))
            told = f"roots {means.mean():+.2f} [{ends.low:+.2f}, {ends.high:+.2f}]; {len(means)} configurations"
            yield Tested(task, "beyond: every rank and α", float(means.mean()), float(found.pvalue), told)


def distinct(runs: pd.DataFrame) -> pd.DataFrame:
    """Return each configuration's means over seeds; of configurations that train alike, such as r 16 of both, one."""
    sign = np.where(runs["forgetting_higher_is_better"].astype(bool), -1, 1)
    means = runs.assign(lost=sign * runs["forgetting"]).groupby("configuration")
    rows = means[[*COUNTS, "lost", "relative_change"]].mean()
    return rows[~rows[["bare", "lost", "relative_change"]].round(3).duplicated()]


def low_rank_writes_more(runs: pd.DataFrame) -> Iterator[Tested]:
    """The count falls as the rank rises."""
    for task, some in single(runs):
        for family, rows in families(some[some["rank"].notna()]):
            for count in COUNTS:
                yield from ordered(rows, "rank", count, -1, (task, f"{count}: {family}, rank"))


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
        rows = distinct(some)
        if len(rows) < FEWEST:
            continue
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
        ("LoRA of low rank writes more than random changes do", beyond_chance),
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


def counts_of(runs: pd.DataFrame) -> Iterator[str]:
    """Yield a Markdown row for each task and configuration: means over seeds, and each seed's counts."""
    yield "| task | configuration | score | forgetting | ‖ΔW‖/‖W0‖ | intruders | of random changes (median) | beyond |"
    yield "|---|---|---|---|---|---|---|---|"
    for (task, _, _, configuration), some in runs.groupby(["task", "method", "rank", "configuration"], dropna=False):
        ordered_by_seed = some.sort_values("seed")
        means = (f"{some[name].mean():+.{digits}f}" for name, digits in (("forgetting", 2), ("intruders_excess", 1)))
        forgotten, beyond = means
        each = (" ".join(f"{one:g}" for one in ordered_by_seed[name]) for name in ("intruders", "intruders_null"))
        cells = [task, configuration, f"{some['score'].mean():.3f}", forgotten, f"{some['relative_change'].mean():.3f}"]
        yield f"| {' | '.join([*cells, *each, beyond])} |"


def main() -> None:
    try:
        table = read_runs(*map(Path, sys.argv[1:])).table
    except HarnessError as error:
        sys.exit(str(error))
    runs = effects_of(table).chosen
    numbers = ["intruders", "intruders_null", "rank", "relative_change", "forgetting", ALPHA_GIVEN]
    runs = runs[runs["intruders_excess"].notna()].astype(dict.fromkeys(numbers, "float64"))
    runs = roots(runs.assign(chance_roots=runs["folder"].map(chance_roots)))
    print(*counts_of(runs), "", sep="\n")
    print("| claim | task | compared | result | effect |\n|---|---|---|---|---|")
    for claim, row in rows_of(runs):
        print(f"| {claim} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
