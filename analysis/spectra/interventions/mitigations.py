"""Ways to forget less that need no singular vector: stopping earlier, and training at a lower rate.

Each is a curve of models, as λ is of one: its points are numbered by the share of the training steps, and by the share
of the run's learning rate, so that 1 is the tuned model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import RecordError
from harness.execution.reload import config_of
from harness.forgetting.base import Items
from harness.identity import identity
from harness.storage.outcomes import read_items, read_series
from harness.storage.record import Status, read_record

AFTER = "after"
"""The phase of ``items.parquet`` that the tuned model answered."""


def stopped(folder: Path, steps: int) -> dict[float, Path]:
    """Return share of a run's `steps` → folder of each checkpoint that it kept, the last step's left out."""
    kept = {int(path.name.rpartition("-")[2]): path for path in (folder / "checkpoints").glob("checkpoint-*")}
    return {step / steps: path for step, path in sorted(kept.items()) if step < steps}


def lower(folder: Path, record: dict[str, Any]) -> dict[float, Path]:
    """Return share of the rate → folder of each finished run beside this one that differs in a lower rate alone."""
    rate, own = _without_rate(record)
    found = {}
    for path in sorted(folder.resolve().parent.glob("*/record.json")):
        try:
            other = read_record(path.parent)
            if not _may_be(other, record):
                continue
            others_rate, rest = _without_rate(other)
        except RecordError:
            continue  # said where that run is read itself
        if others_rate < rate and rest == own:
            found[others_rate / rate] = path.parent
    return found


def _may_be(other: dict[str, Any], record: dict[str, Any]) -> bool:
    """Return whether a run is done and of the same seed and method, before its files are hashed."""
    same = all(other["config"].get(key) == record["config"].get(key) for key in ("seed", "task", "model"))
    return same and other["status"] == Status.done.value


def _without_rate(record: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Return a run's learning rate, and everything else that can change its result."""
    known = identity(config_of(record))
    rest = {part: {**known[part], "learning_rate": None} for part in ("train", "method")}
    return float(known["train"]["learning_rate"]), known | rest


def answers_of(folder: Path, split: str) -> Items:
    """Return what a finished run answered of the task's split and of its probes."""
    path = folder / "items.parquet"
    return {split: read_items(path)[AFTER][split]} | read_series(path, AFTER)
