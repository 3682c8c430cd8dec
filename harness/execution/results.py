"""What a run leaves when its phases are done: every item's outcome, samples, history, and what its record says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from harness.config import Purpose
from harness.distributed import group
from harness.execution.context import Run
from harness.execution.evaluate import HELD_OUT, Outcomes, annotated, scores
from harness.forgetting.events import Events
from harness.forgetting.sequence import DEFINITIONS, HEADLINE, VERSION, intervals
from harness.storage.files import write_bytes
from harness.tasks import external
from harness.tasks.base import Outcome, clusters
from harness.training.watch import STEPS

SAMPLES = 8
Peaks = dict[str, dict[str, float]]
"""GiB by section of the meter and kind of memory."""


@dataclass(frozen=True)
class Forgotten:
    """What the probes found of a tuned model."""

    entries: dict[str, Any]
    """The record's entry for each probe."""
    items: dict[str, list[Outcome]]


def results(run: Run, forgotten: Forgotten) -> dict[str, Any]:
    """Write what is kept beside the record, tell the tracker, and return what the record says of the run."""
    memory = group.gathered(run.meter.memory)
    last = run.last
    with run.meter.section("evaluate"):
        before, after = (
            annotated(last.config.task, found) for found in (run.base[last.name], run.outcomes[-1][last.name])
        )
    events, event_items = Events(last.folder.path).results()
    with run.meter.section("save"):
        probed = {
            "before": run.probing.items(run.probing.base),
            "after": forgotten.items | event_items | (stage_items(run) if run.config.sequence else {}),
        }
        alike = clusters(last.prepared.splits.test)
        run.folder.write_items({"before": before | probed["before"], "after": after | probed["after"]}, alike)
        shown = samples(run, before, after) if "test" in after else []
        run.folder.write_samples(shown)
        if run.config.sequence and group.first():
            join_histories(run)
    if run.config.purpose is Purpose.result:
        run.tracker.samples(shown)
        run.tracker.adapter(run.folder.trained)
    found = {"scores": {"before": scores(last.config.task, before), "after": scores(last.config.task, after)}}
    found |= measured_by(last.config.task.metrics, after)
    entries = ({"sequence": transfer_entry(run)} if run.config.sequence else {}) | forgotten.entries | events
    found |= costs(run) | memories(memory) | described(run) | {"parameters": run.parameters, "forgetting": entries}
    return found | ({"sequence": matrix(run)} if run.config.sequence else {})


def measured_by(specs: list[str], after: Outcomes) -> dict[str, Any]:
    """Return the record's part on metrics of ``task.metrics``: where each is from and why it has or has no interval."""
    outcomes = [one for split in after.values() for one in split]
    return {"metrics": external.described(specs, outcomes)} if specs else {}


def samples(run: Run, before: Outcomes, after: Outcomes) -> list[dict[str, Any]]:
    """Return a few test items with their text for people to read: the base's answer, the tuned one, the reference."""
    prepared = run.last.prepared
    inputs = {item.id: prepared.objective.show(item) for item in prepared.splits.test[:SAMPLES]}
    base = {outcome.item: outcome.prediction for outcome in before["test"]}
    return [
        {
            "item": o.item,
            "input": inputs[o.item],
            "base": base.get(o.item),
            "tuned": o.prediction,
            "reference": o.target,
        }
        for o in after["test"]
        if o.item in inputs
    ]


def costs(run: Run) -> dict[str, Any]:
    """Return tokens, steps, seconds and peak memory; ``train`` is optimiser steps alone."""
    tokens, seconds = sum(stage.tokens for stage in run.trained), run.meter.seconds
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / seconds[STEPS],
        "steps": sum(stage.steps for stage in run.trained),
        "interruptions": sum(stage.interruptions for stage in run.trained),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def memories(found: list[Peaks]) -> dict[str, Any]:
    """Return the peaks of each section, of several processes the highest, and besides those of each process."""
    sections = {section: [own.get(section, {}) for own in found] for section in found[0]}
    highest = {
        section: {name: max(own.get(name, 0.0) for own in peaks) for name in peaks[0]}
        for section, peaks in sections.items()
    }
    return {"memory": highest} | ({"memory_by_process": found} if len(found) > 1 else {})


def described(run: Run) -> dict[str, Any]:
    """Return what the run was trained and tested on."""
    prepared = run.last.prepared
    splits = prepared.splits
    return {
        "hashes": {"model": prepared.files.hashes, "data": splits.fingerprint()},
        "data": {
            "items": {"train": len(splits.train)} | {split: len(getattr(splits, split)) for split in HELD_OUT},
            "dropped": splits.dropped,
            "shortened": prepared.objective.shortened,
        },
    }


def item_scores(run: Run) -> tuple[list[list[list[float]]], list[list[float]]]:
    """Return the items' scores of each task after each stage, and with the untouched model."""
    names = [stage.name for stage in run.stages]
    after = [[[o.score for o in found[name]["test"]] for name in names] for found in run.outcomes]
    return after, [[o.score for o in run.base[name]["test"]] for name in names]


def matrix(run: Run) -> dict[str, Any]:
    """Return R and b of a sequence, means of the items' scores, and what is computed of them."""
    after, base = item_scores(run)
    return {
        "tasks": [stage.name for stage in run.stages],
        "between": run.config.sequence_between.value,
        "R": [[sum(values) / len(values) for values in stage] for stage in after],
        "b": [sum(values) / len(values) for values in base],
        "definitions": DEFINITIONS,
    }


def transfer_entry(run: Run) -> dict[str, Any]:
    """Return the record's entry of the sequence among the probes."""
    metrics = {name: asdict(change) for name, change in intervals(*item_scores(run)).items()}
    head = {"probe": "sequence", "version": VERSION, "status": "measured", "reason": None}
    return head | {"headline": HEADLINE, "notes": {}, "metrics": metrics}


def stage_items(run: Run) -> dict[str, list[Outcome]]:
    """Return the outcomes that R is made of as ``items.parquet`` names them: stage 0 is the untouched model."""
    found = {f"forgetting/sequence/0/{stage.name}": run.base[stage.name]["test"] for stage in run.stages}
    for number, outcomes in enumerate(run.outcomes, 1):
        found |= {f"forgetting/sequence/{number}/{name}": splits["test"] for name, splits in outcomes.items()}
    return found


def join_histories(run: Run) -> None:
    """Write the run's history out of the stages', steps and tokens going on, each line with its task."""
    lines, steps, tokens = [], 0, 0
    for stage, trained in zip(run.stages, run.trained, strict=True):
        text = (stage.folder.path / "history.jsonl").read_text(encoding="utf-8")
        for made in map(json.loads, text.splitlines()):
            place = {"step": made["step"] + steps, "tokens": made["tokens"] + tokens, "task": stage.name}
            lines.append(json.dumps(made | place) + "\n")
        steps, tokens = steps + trained.steps, tokens + trained.tokens
    write_bytes(run.folder.path / "history.jsonl", "".join(lines).encode())
