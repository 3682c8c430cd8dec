"""A run as its phases: baseline, train, evaluate, probe, save; a sequence trains and evaluates once for each task."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from harness.distributed import group
from harness.errors import NotApplicable
from harness.execution.baseline import fill_baseline, forgetting_section
from harness.execution.context import Run, Stage, stages_of
from harness.execution.evaluate import Outcomes
from harness.execution.heads import head_of, load_head, put_head, save_head
from harness.execution.learning import learn
from harness.execution.model import begin, drop_hand_over, hand_over, keep, tuned
from harness.execution.phases import BASELINE, EVALUATE, HAND_OVER, PROBE, SAVE, TRAIN
from harness.execution.results import Forgotten, results
from harness.forgetting.measure import fit
from harness.forgetting.sequence import unsuitable
from harness.methods.base import trainable
from harness.models import size
from harness.runtime import free
from harness.storage.files import require_writable, write_json
from harness.storage.outcomes import read_series, write_series
from harness.training.checkpoint import finish_checkpoints
from harness.training.train import Trained

HEAD = "head.safetensors"


def work(run: Run) -> dict[str, Any]:
    """Go through the phases that no earlier attempt finished; return what the run adds to its record.

    Raises :class:`NotApplicable` where the method or a task does not fit the model.
    """
    prepare(run)
    measure_baseline(run)
    for stage in run.stages:
        train_stage(run, stage)
        evaluate_stage(run, stage)
        if not stage.last:
            run.phases.once(run.phase(stage, HAND_OVER), partial(hand_over, run, stage))
            if group.first():
                drop_hand_over(run, stage)
    forgotten = probe(run)
    run.phases.current = SAVE
    return results(run, forgotten)


def prepare(run: Run) -> None:
    """Tokenise every task, and fit the probes to the last."""
    reason = unsuitable(run.config) if run.config.sequence else None
    if reason is not None:
        raise NotApplicable(reason)
    with run.meter.section("tokenise"):
        run.stages = list(stages_of(run.config, run.folder))
        run.probing = fit(run.config, run.last.prepared, run.runtime)


def measure_baseline(run: Run) -> None:
    """Answer every task with the untouched model, and measure it by every probe; the first run of a sweep computes.

    Where an earlier attempt did, its numbers are read; no model is loaded where no phase is left that needs one.
    """
    run.phases.once(BASELINE, lambda _: fill_baseline(run, whole=True))
    if not run.base:
        fill_baseline(run, whole=not group.by_first(run.phases.place(PROBE).is_dir))


def train_stage(run: Run, stage: Stage) -> None:
    """Train a stage and keep its trained state; its checkpoints go once that is on disk."""

    def work(folder: Path) -> None:
        with run.meter.section("load"):
            begun = begin(run, stage)
            model = begun.model
            run.model = None  # what is cut in training is not what a later phase may go on with
        counts = {"total": begun.base_parameters, "trainable": sum(map(size, trainable(model).values()))}
        group.by_first(partial(require_room, run, counts["trainable"]))
        run.probing.free_head()
        free()
        with run.meter.section("around_training"):
            trained = learn(run, stage, model, begun.head)
        with run.meter.section("save"), group.folder_of_first(stage.trained) as target:
            counts["saved_bytes"] = group.from_first(keep(run, stage, model, target))
        run.heads[stage.name] = head_of(model, run.heads[stage.name])
        save_head(run.heads[stage.name], folder / HEAD)
        write_json(folder / "trained.json", asdict(trained) | {"parameters": counts})
        run.model = model

    folder = run.phases.once(run.phase(stage, TRAIN), work)
    if stage.name in run.heads:
        load_head(run.heads[stage.name], folder / HEAD)
    kept = json.loads((folder / "trained.json").read_text(encoding="utf-8"))
    run.parameters = kept.pop("parameters")
    run.trained.append(Trained(**kept))
    group.wait()  # until every process has read what it needs
    if group.first():
        finish_checkpoints(stage.folder.checkpoints, run.config.train.keep_checkpoints)


def require_room(run: Run, trained: int) -> None:
    """Refuse to train where the disk has no room for the trained state and, with checkpoints, its optimiser's."""
    copies = 4 if run.config.train.save_steps else 1  # weights; beside them weights and two moments
    require_writable(run.folder.path, copies * 4 * trained)


def evaluate_stage(run: Run, stage: Stage) -> None:
    """Answer every task with the model as a stage left it, each through its own head."""

    def work(folder: Path) -> None:
        model = tuned(run, stage)
        with run.meter.section("evaluate"):
            found = {task.name: answers(run, stage, task, model) for task in run.stages}
        named = {f"{task}|{split}": found[task][split] for task in found for split in found[task]}
        write_series(folder / "items.parquet", named)

    folder = run.phases.once(run.phase(stage, EVALUATE), work)
    run.outcomes.append(read_outcomes(folder / "items.parquet"))


def answers(run: Run, stage: Stage, task: Stage, model: nn.Module) -> Outcomes:
    """Answer one task after a stage, through the task's own head, and put the stage's back."""
    objective = task.prepared.objective
    if task is stage:
        return run.evaluator.answer(model, objective, task.asked(stage), "evaluate")
    own, device = head_of(model, run.heads[stage.name]), run.runtime.device
    put_head(model, run.heads[task.name], device)
    try:
        return run.evaluator.answer(model, objective, task.asked(stage), "evaluate")
    finally:
        put_head(model, own, device)


def read_outcomes(file: Path) -> dict[str, Outcomes]:
    """Read outcomes back by task and split."""
    found: dict[str, Outcomes] = {}
    for name, outcomes in read_series(file).items():
        task, _, split = name.partition("|")
        found.setdefault(task, {})[split] = outcomes
    return found


def probe(run: Run) -> Forgotten:
    """Measure what was forgotten, by every probe that fits."""

    def work(folder: Path) -> None:
        found = {}
        if run.probing.fitted:
            model = tuned(run, run.last)
            with forgetting_section(run, "forgetting"):
                found = run.probing.measure(model)
        write_json(folder / "entries.json", run.probing.record(found))
        write_series(folder / "items.parquet", run.probing.items(found))

    folder = run.phases.once(PROBE, work)
    entries = json.loads((folder / "entries.json").read_text(encoding="utf-8"))
    return Forgotten(entries, read_series(folder / "items.parquet"))
