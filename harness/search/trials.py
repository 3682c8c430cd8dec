"""What the runs of a search found: their records read as trials of the rule."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.config import Purpose, RunConfig
from harness.identity import digest, identity, learning_rate
from harness.search import rule
from harness.search.rule import UNTRAINED, WORST, Trial
from harness.storage.outcomes import read_items
from harness.storage.record import RunFolder, Status, read_record, searched_in_vain
from harness.tasks.base import Outcome, Score, Task

HALF_WIDTHS = 2 * 1.96
"""A 95 % interval is as wide as this many standard errors."""


def rate_at(config: RunConfig, place: int) -> float:
    """Return the learning rate of a place around what the configuration starts from."""
    return rule.rate_at(learning_rate(config), place)


def search_config(config: RunConfig, place: int) -> RunConfig:
    """Return the run that tries a place for a configuration, whatever seed is asked for."""
    train = replace(config.train, learning_rate=rate_at(config, place), learning_rate_factor=1.0)
    return replace(config, purpose=Purpose.search, seed=config.search.seed, train=train)


def configuration_key(config: RunConfig) -> str:
    """Return the hash of everything that a search's runs share: all of their identity but the learning rate."""
    shared = identity(search_config(config, 0))
    for part in ("train", "method"):
        shared[part] = {key: value for key, value in shared[part].items() if key != "learning_rate"}
    return digest(shared)


def trial_of(record: dict[str, Any], folder: Path, task: Task) -> Trial | None:
    """Return what a run of a search scored, None where it has not ended or failed otherwise than by its rate."""
    if searched_in_vain(record):
        return WORST
    if record["status"] != Status.done.value:
        return None
    found = read_items(folder / "items.parquet")
    before, after = found["before"]["validation"], found["after"]["validation"]
    if [o.prediction for o in before] == [o.prediction for o in after]:
        return UNTRAINED
    base = scored(task, before)
    return replace(scored(task, after), base=base.value)


def scored(task: Task, outcomes: list[Outcome]) -> Trial:
    """Return the task's metric as a trial, item by item where it is the mean of the items' scores."""
    if task.metric in task.per_item_metrics:  # of those more is better
        items = tuple(outcome.score for outcome in outcomes)
        return Trial(fmean(items), items)
    score: Score = task.scores(outcomes)[task.metric]
    if not math.isfinite(score.value):
        return WORST
    sign = 1 if score.higher_is_better else -1
    error = (score.high - score.low) / HALF_WIDTHS
    return Trial(sign * score.value, error=error if math.isfinite(error) else 0.0)


def described(record: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the path says of a tried run: its validation score, or why it has none."""
    if record is None or record["status"] != Status.done.value:
        return {"score": None, "reason": record["reason"] if record else None}
    score = record["scores"]["after"]["validation"][record["metric"]]
    return {"score": score["value"], "low": score["low"], "high": score["high"], "items": score["n"], "reason": None}


def read(folder: RunFolder) -> dict[str, Any] | None:
    """Return a run's record, None where it has not begun."""
    return read_record(folder.path) if (folder.path / "record.json").exists() else None
