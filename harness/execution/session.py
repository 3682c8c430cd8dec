"""What runs of one process share: files on disk, splits, and tokenised data; never a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.config import Distributed, RunConfig
from harness.distributed import group
from harness.errors import DataError
from harness.execution.evaluate import HELD_OUT, Questions
from harness.identity import model_identity, task_identity
from harness.models import Pretrained, kind_of, load_tokenizer
from harness.objectives import build
from harness.objectives.base import Features, Objective
from harness.storage import assets
from harness.storage.assets import Files
from harness.tasks.base import Splits, Task


@dataclass
class Prepared:
    """A model's files and a task's items, tokenised for that model."""

    files: Files
    kind: str
    task: Task
    splits: Splits
    objective: Objective[Any]
    features: list[Features]
    questions: Questions

    def pretrained(self, config: RunConfig) -> Pretrained:
        """Return what to load for a run over these items."""
        sharded = group.size() > 1 and config.distributed is Distributed.shard
        return Pretrained(self.files, config.model, self.objective.outputs, config.seed, sharded, config.offload)


_PREPARED: dict[str, Prepared] = {}
_SPLITS: dict[str, Splits] = {}
_KEPT = 8
"""Prepared pairs of model and task kept in memory; tokenised data of a large task is some 100 MB."""


def fetch(config: RunConfig) -> tuple[Files, Splits]:
    """Get the model's files and the task's items, downloading what is missing.

    Raises a :class:`HarnessError` in one line where either cannot be had or used.
    """
    cache = assets.cache_root(config.cache_dir)
    files = assets.fetch_model(config.model, cache)
    kind_of(files.folder, config.model)  # refuses a kind that is not the model's, before anything is trained
    key = json.dumps(task_identity(config.task), sort_keys=True)
    if key not in _SPLITS:
        _SPLITS[key] = config.task.load(lambda source: assets.fetch_source(source, cache, config.task.licence))
    return files, _SPLITS[key]


def prepare(config: RunConfig) -> Prepared:
    """Return the tokenised task, from memory where an earlier run of this process tokenised it.

    Raises :class:`NotApplicable` where a model of this kind cannot do the task.
    """
    # The path too: a folder of the same content may be overwritten while the other is not.
    key = json.dumps([config.model.path, model_identity(config.model), task_identity(config.task)], sort_keys=True)
    if key not in _PREPARED:
        while len(_PREPARED) >= _KEPT:
            _PREPARED.pop(next(iter(_PREPARED)))
        _PREPARED[key] = _tokenise(config)
    return _PREPARED[key]


def _tokenise(config: RunConfig) -> Prepared:
    files, splits = fetch(config)
    kind = kind_of(files.folder, config.model)
    objective = build(config.task, kind, load_tokenizer(files))
    questions = {split: objective.questions(getattr(splits, split)) for split in HELD_OUT}
    features = objective.features(splits.train)
    if not features:
        raise DataError("task.data.train", config.task.dataset, "there is not enough text in it to train on")
    return Prepared(files, kind, config.task, splits, objective, features, questions)
