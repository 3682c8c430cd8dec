"""Rows over seeds: means with intervals of both levels, and runs without a result still in sight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis.effects.blocks import Effects, effects_of
from analysis.effects.estimates import of_runs
from analysis.effects.outcomes import FORGETTING, LEARNING, Outcome
from analysis.records.conditions import resumed
from analysis.records.configurations import UNIT, blocks, configured, narrow, newest
from harness.storage.record import Status

DEFAULT = (UNIT, "learning_rate")
MEANS = (
    *("base", "validation", "trainable", "total", "trainable_share", "saved_bytes", "tokens", "steps"),
    *("tokens_per_second", "train_seconds", "train_peak_bytes", "train_paged_bytes", "evaluate_peak_bytes"),
    *("intruders_excess", "intruders", "intruders_clustered", "intruders_v", "intruders_floor"),
    *("intruders_null", "intruders_null_low", "intruders_null_high", "intruders_null_dense", "intruders_null_rank"),
    *("relative_change", "effective_rank", "scale"),
)
"""Columns whose mean over a row's runs is given; NA where none of the runs has it."""
SHARED = (
    *("model", "task", "metric", "higher_is_better", "method", "rank", "test_items", "foreign"),
    *("precision", "device", "threads", "processes"),
)
"""Columns that a row has where all of its runs agree."""
Row = dict[str, Any]


class Grouped(NamedTuple):
    """A row a group of runs, and a line for each thing that could not be used as it should."""

    rows: pd.DataFrame
    """Columns: the keys; runs, seeds, status, reason, resumed; score, forgetting with low and high; those of `SHARED`
    and `MEANS`; folders."""
    problems: tuple[str, ...]


def grouped(table: pd.DataFrame, keys: Sequence[str] = DEFAULT, found: Effects | None = None) -> Grouped:
    """Return the runs of a tidy table in rows over seeds, within each model, task, metric and data.

    Scores and forgetting are those of `found`, computed of the table unless given; of a single run among others with
    one seed the interval is the record's own. Where a row's runs differ by more than their seeds, `problems` says so.
    """
    found = effects_of(table) if found is None else found
    problems: list[str] = []
    rows: list[Row] = []
    order = ["method", "rank", "learning_rate", "seed"]
    named = narrow(configured(table.sort_values(order, na_position="first")), keys)
    for _, block in blocks(_placed(named)):
        for key, runs in block.groupby(list(keys), dropna=False, sort=False):
            rows.append(dict(zip(keys, key, strict=True)) | _row(runs, found, problems))
    columns = [*keys, *(name for name in rows[0] if name not in keys)] if rows else list(keys)
    lines = tuple(dict.fromkeys([*problems, *found.problems]))
    return Grouped(pd.DataFrame(rows, columns=columns).convert_dtypes(), lines)


def with_choice(rows: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Return rows over seeds with the rates that were tried for each and what chose, as `fair` says of its runs."""
    keys = ["model", "task", UNIT]
    said = chosen.drop_duplicates(keys).set_index(keys)[["rates", "chosen_by"]].to_dict("index")
    of_each = [said.get(tuple(key), {}) for key in rows[keys].itertuples(index=False)]
    columns = {name: [one.get(name) for one in of_each] for name in ("rates", "chosen_by")}
    return rows.assign(**{name: pd.Series(cells, index=rows.index, dtype="str") for name, cells in columns.items()})


def _placed(runs: pd.DataFrame) -> pd.DataFrame:
    """Place runs that never saw their data, as they failed, with the others of their task."""
    same = runs.groupby(["model", "task", "metric"], dropna=False)["data_hash"]
    return runs.assign(data_hash=runs["data_hash"].fillna(same.transform("first")))


def _once(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that are done, a configuration's seed once."""
    done = runs[runs["status"] == Status.done.value]
    return pd.concat(
        [done.iloc[:0], *(newest(some) for _, some in done.groupby(list(DEFAULT), dropna=False, sort=False))]
    )


def _row(runs: pd.DataFrame, found: Effects, problems: list[str]) -> Row:
    done = _once(runs)
    problems += _mixture(done)
    return {
        "runs": len(runs),
        "seeds": done["seed"].nunique(),
        "status": _status(runs),
        "reason": _reason(runs),
        "resumed": resumed(done) or None,
        **_shown(done, found, LEARNING),
        "score_sd": done["score"].std() if len(done) > 1 else None,
        **_shown(done, found, FORGETTING),
        **{name: _only(done[name]) for name in ("forgetting_name", "forgetting_higher_is_better")},
        **{name: _only(runs[name]) for name in SHARED},
        **{name: done[name].mean() if done[name].notna().any() else None for name in MEANS},
        "folders": ", ".join(done["folder"] if len(done) else runs["folder"]),
    }


def _mixture(done: pd.DataFrame) -> list[str]:
    """Say which runs of a row differ by more than their seed, so that its interval is over them too."""
    cells = done[list(DEFAULT)].drop_duplicates()
    if len(cells) <= 1:
        return []
    names = [f"{name} lr={rate:g}" for name, rate in cells.itertuples(index=False)]
    return [f"a row averages {len(names)} configurations, not seeds alone: {', '.join(names)}"]


def _status(runs: pd.DataFrame) -> str:
    """Return done where any run is, else what most are."""
    found = runs["status"]
    return Status.done.value if (found == Status.done.value).any() else str(found.mode().iloc[0])


def _reason(runs: pd.DataFrame) -> str | None:
    """Return why runs of a row have no result, each reason once."""
    others = runs[runs["status"] != Status.done.value]
    if others.empty:
        return None
    said = "; ".join(f"{status}: {reason}" for status, reason in others[["status", "reason"]].drop_duplicates().values)
    return said if len(others) == len(runs) else f"{len(others)} of {len(runs)} {said}"


def _shown(done: pd.DataFrame, found: Effects, outcome: Outcome) -> Row:
    """Return an outcome with its interval, from the runs' own numbers where no items could be read."""
    names = (outcome.column, f"{outcome.column}_low", f"{outcome.column}_high")
    effect = found.of(done, outcome)
    if effect is not None:
        return dict(zip(names, (effect.estimate.value, *effect.interval()), strict=True))
    known = done[done[outcome.column].notna()]
    if known.empty or any(known[name].nunique(dropna=False) > 1 for name in outcome.same):
        return dict.fromkeys(names)
    values, lows, highs = (known[name].to_numpy(dtype=float) for name in names)
    return dict(zip(names, (float(values.mean()), *of_runs(values, lows, highs)), strict=True))


def _only(column: pd.Series[Any]) -> Any:
    """Return the value that all runs with one share, None where they differ."""
    found = column.dropna().unique()
    return found[0] if len(found) == 1 else None
