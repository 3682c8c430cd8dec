"""The untouched model of a run: its answers and what probes find of it, computed once for all runs that share it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from harness import identity
from harness.distributed import group
from harness.execution.context import Run, Stage
from harness.execution.evaluate import HELD_OUT, Outcomes
from harness.execution.heads import Head, head_of
from harness.execution.loading import load, load_untouched
from harness.models import Backbone
from harness.runtime import free
from harness.storage.shared import SharedStore


def fill_baseline(run: Run, whole: bool) -> None:
    """Fill in what is known of the untouched model, from disk where an earlier run left it.

    `whole`: with the heads that tasks start with, and the first stage's base ready to be trained. A base that the
    method quantises is not held beside the whole one: that is measured, and freed, before.
    """
    for stage in run.stages:
        untouched = Untouched(run, stage, eager=whole)
        with run.meter.section("evaluate_base"):
            run.base[stage.name] = base_outcomes(run, stage, untouched)
        if stage.last:
            with forgetting_section(run, "forgetting_base"):
                run.probing.measure_base(untouched.model)
        if whole:
            run.heads[stage.name] = untouched.head()


class Untouched:
    """The untouched model of a stage, loaded once something asks for it, and the head that its task starts with."""

    def __init__(self, run: Run, stage: Stage, eager: bool) -> None:
        self.run, self.stage = run, stage
        self.quantised = run.config.method.quantization() is not None
        # A method that does not fit the model says so here, before anything is measured.
        self.loaded: Backbone | None = self._load() if eager and not self.quantised else None

    def _load(self) -> Backbone:
        with self.run.meter.section("load"):
            return load(self.stage.config, self.stage.prepared, self.run.runtime)

    def model(self) -> nn.Module:
        """Return the model as its files have it, on the device."""
        if self.loaded is None:
            self.loaded = load_untouched(self.stage.config, self.stage.prepared, self.run.runtime)
        return self.loaded.model.to(self.run.runtime.device)

    def head(self) -> Head:
        """Return a copy of the head, and leave the first stage's base ready to be trained."""
        if self.quantised:
            self.loaded = None
            free()
            self.loaded = self._load()
        assert self.loaded is not None
        if self.stage.number == 0:
            # Of a sequence the next task's untouched model is measured first: not beside this one on a GPU.
            if not (self.stage.last or self.quantised):
                self.loaded.model.to("cpu")
            self.run.backbone = self.loaded
        return head_of(self.loaded.model, self.loaded.head_modules())


def base_outcomes(run: Run, stage: Stage, untouched: Untouched) -> Outcomes:
    """Return the untouched model's outcomes, computed by the first run that needs them.

    Untouched means not quantised: what quantisation costs is part of what QLoRA is charged with.
    """
    prepared, config = stage.prepared, stage.config
    shared: dict[str, Any] = {
        "model": prepared.files.hashes,
        "task": identity.task_identity(config.task),
        "items": prepared.splits.fingerprint(),
        "computed": run.runtime.key(),
        "batch": config.train.per_device_eval_batch_size,
        "kind": prepared.kind,
        "head_seed": config.seed if prepared.kind == "encoder" else None,
    }
    if config.held_out != HELD_OUT:
        shared["splits"] = config.held_out
    store = SharedStore(config.output_dir, "answers", shared)
    with group.held_by_first(store.lock()):
        kept = group.by_first(store.read)
        if kept is not None:
            return kept[0]
        asked = {split: prepared.questions[split] for split in config.held_out}
        found = run.evaluator.answer(untouched.model(), prepared.objective, asked, "base")
        if group.first():
            store.write(found)
        return found


def forgetting_section(run: Run, name: str) -> AbstractContextManager[None]:
    """Measure a section of probes; a run without any has no such section."""
    return run.meter.section(name) if run.probing.fitted else nullcontext()
