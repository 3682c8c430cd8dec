"""The run's model at each of its phases: in memory, or brought back from what the last phase left on disk.

A method whose state can be folded into the weights is merged after each task of a sequence and attached afresh, as in
the continual-learning section of "Illusion of Equivalence" (arXiv 2410.21228); or the same state trains on. An encoder
has a head of its own for each task: those of earlier tasks stay as they were trained, those of later ones as they
start, and both read the body as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import transformers
from safetensors.torch import load_model, save_model
from torch import nn

from harness.config import Between
from harness.distributed import group
from harness.distributed.state import save_trained
from harness.execution.context import Run, Stage
from harness.execution.heads import put_head
from harness.execution.loading import attach, load, merge
from harness.execution.phases import HAND_OVER
from harness.methods.base import DirectMethod
from harness.models import Backbone

START = "start/weights.safetensors"
"""The weights, merged, that the last stage of a sequence started from: its trained state belongs to them."""


def take_backbone(run: Run, stage: Stage) -> Backbone:
    """Return a stage's base, loaded; the first stage's may lie ready from measuring the baseline."""
    ready = run.backbone if stage.number == 0 else None
    run.backbone = None
    return ready or load(stage.config, stage.prepared, run.runtime)


@dataclass(frozen=True)
class StageModel:
    """A model that is ready to train, with what is known of its base."""

    model: nn.Module
    head: Sequence[str]
    """The modules of the task's new head."""
    base_parameters: int


def begin(run: Run, stage: Stage) -> StageModel:
    """Return the model of a stage, ready to train: from the stage before, in memory or from disk."""
    backbone = take_backbone(run, stage)
    return StageModel(_model_of(run, stage, backbone), backbone.head, backbone.parameters)


def _model_of(run: Run, stage: Stage, backbone: Backbone) -> nn.Module:
    if stage.number == 0:
        return attach(run.config, backbone, run.runtime)
    before = handed_over(run, run.stages[stage.number - 1])
    if merges(run):
        if run.model is None:
            load_model(backbone.model, before / START)
        else:
            backbone.model = cast("transformers.PreTrainedModel", run.model)
        return attach(run.config, backbone, run.runtime)
    if run.model is not None:
        return run.runtime.hold_trained(run.model)  # the next task's head came in the dtype that it was loaded in
    model = attach(run.config, backbone, run.runtime)
    run.config.method.load(model, before)
    return model


def tuned(run: Run, stage: Stage) -> nn.Module:
    """Return the model as a stage's training left it."""
    if run.model is None:
        model = begin(run, stage).model
        run.config.method.load(model, stage.trained)
        put_head(model, run.heads[stage.name], run.runtime.device)
        run.model = model
    return run.model


def hand_over(run: Run, stage: Stage, folder: Path) -> None:
    """Write what the next stage starts from: the merged weights, or the state as it is, with the next task's head."""
    model, following = tuned(run, stage), run.stages[stage.number + 1]
    model = merge(run.config, model) if merges(run) else model
    put_head(model, deepcopy(run.heads[following.name]), run.runtime.device)
    if not merges(run):
        save_trained(run.config.method, model, folder)
    elif group.first():
        (folder / START).parent.mkdir(parents=True)
        save_model(model, str(folder / START))
    run.model = model


def drop_hand_over(run: Run, stage: Stage) -> None:
    """Remove what a stage started from once the next one has what it starts from: merged weights are large."""
    if stage.number:
        shutil.rmtree(handed_over(run, run.stages[stage.number - 1]) / Path(START).parent, ignore_errors=True)


def handed_over(run: Run, stage: Stage) -> Path:
    """Return the folder of what `hand_over` wrote after a stage."""
    return run.phases.place(run.phase(stage, HAND_OVER))


def merges(run: Run) -> bool:
    """Return whether the state is merged between two tasks."""
    return run.config.sequence_between is Between.merge


def keep(run: Run, stage: Stage, model: nn.Module, folder: Path) -> int:
    """Write a stage's trained state, and the merged weights that it belongs to; return its bytes."""
    save_trained(run.config.method, model, folder)
    direct = isinstance(run.config.method, DirectMethod)  # which saves all that ever trained
    if stage.number and stage.last and merges(run) and not direct and group.first():
        (folder / START).parent.mkdir()
        shutil.copy(handed_over(run, run.stages[stage.number - 1]) / START, folder / START)
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def restore_start(model: nn.Module, folder: Path) -> None:
    """Read the weights that a sequence's last stage started from, where `folder` has them, into a loaded base."""
    if (folder / START).exists():
        load_model(model, folder / START)
