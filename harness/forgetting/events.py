"""Forgetting events: an item that goes from right to wrong between two evaluations of a run in a row.

Toneva et al. 2019 (arXiv 1812.05159, section 3): item i is forgotten at t + 1 where acc_i(t) > acc_i(t+1). It is
unforgettable where it was right at some time and never forgotten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.forgetting.base import Items, estimate, mean, only_after, shares
from harness.tasks.base import Outcome

VERSION = 1
FILE = "evaluations.jsonl"


class Events:
    """What was right at each evaluation of a run, kept beside its history so that a resumed run has it all."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def add(self, step: int, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
        """Append one evaluation; items that are not simply right or wrong are left out.

        A run that resumes from before `step` adds it again, with the same content.
        """
        right = {split: {o.item: int(o.score) for o in found} for split, found in outcomes.items() if graded(found)}
        if not right:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "right": right}) + "\n")
            file.flush()
            os.fsync(file.fileno())  # it must not end before the checkpoint that is written next

    def read(self) -> dict[int, dict[str, dict[str, int]]]:
        """Return right (1) or wrong (0) by step, split and item, in the order of steps."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        found = {}
        for line in lines:
            try:
                entry = json.loads(line)
                found[int(entry["step"])] = entry["right"]
            except (ValueError, KeyError):  # the line that a power failure cut; its step was done again
                continue
        return dict(sorted(found.items()))

    def results(self) -> tuple[dict[str, Any], Items]:
        """Return the record's entry, and each item's number of events; nothing where there were no two evaluations."""
        evaluations = self.read()
        splits = sorted({split for right in evaluations.values() for split in right})
        if len(evaluations) < 2 or not splits:
            return {}, {}
        metrics: dict[str, Any] = {}
        items: Items = {}
        for split in splits:
            over_time = [right[split] for right in evaluations.values() if split in right]
            histories = {item: [right[item] for right in over_time] for item in over_time[0]}
            items[f"forgetting/events/{split}"] = [
                Outcome(item, "", "", float(forgotten(seen))) for item, seen in histories.items()
            ]
            metrics |= {f"{split}/{name}": value for name, value in summary(histories).items()}
        notes = {"evaluations": len(evaluations), "steps": list(evaluations)}
        entry = {"probe": "events", "version": VERSION, "status": "measured", "reason": None, "notes": notes}
        return {"events": entry | {"metrics": metrics}}, items


def graded(outcomes: Sequence[Outcome]) -> bool:
    """Return whether every item is right or wrong and nothing between."""
    return bool(outcomes) and {outcome.score for outcome in outcomes} <= {0.0, 1.0}


def forgotten(seen: Sequence[int]) -> int:
    """Return how often an item goes from right to wrong in a row of evaluations."""
    return sum(before > after for before, after in pairwise(seen))


def summary(histories: Mapping[str, Sequence[int]]) -> dict[str, dict[str, Any]]:
    """Return events an item, and the shares of items forgotten at least once, unforgettable, and never right."""
    events = [float(forgotten(seen)) for seen in histories.values()]
    kinds = {
        "forgotten": [float(count > 0) for count in events],
        "unforgettable": [float(any(seen) and not forgotten(seen)) for seen in histories.values()],
        "never_learned": [float(not any(seen)) for seen in histories.values()],
    }
    found = {"events_per_item": only_after(estimate(events, mean, higher_is_better=False))}
    for name, values in kinds.items():
        outcomes = [Outcome("", "", "", value) for value in values]
        found[name] = only_after(shares(outcomes, outcomes).after)
    return {name: asdict(change) for name, change in found.items()}
