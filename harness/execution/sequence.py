"""A run over tasks one after another: what each stage teaches, and what it takes from the tasks before.

A method whose state can be folded into the weights is merged after each stage and attached afresh, as in the
continual-learning section of "Illusion of Equivalence" (arXiv 2410.21228); or the same state trains on. An encoder
has a head of its own for each task: those of earlier tasks stay as they were trained, those of later ones as they
start, and both read the body as it is.

A cut run resumes inside the stage it was in: each has a folder with its own checkpoints and history and, once done,
its scores, its items and the state that the next one starts from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import transformers
from safetensors.torch import load_file, load_model, save_file, save_model

from harness.config import Between, RunConfig
from harness.errors import NotApplicable
from harness.execution import execute as run
from harness.execution import session
from harness.execution.evaluate import Outcomes, answer
from harness.execution.machine import Meter
from harness.forgetting.measure import Probing, fit, read_series
from harness.forgetting.sequence import DEFINITIONS, HEADLINE, VERSION, intervals, unsuitable
from harness.forgetting.subject import plain
from harness.methods.base import DirectMethod, trainable
from harness.methods.peft import head_modules
from harness.models import Backbone, device_of
from harness.storage.files import new_folder, write_bytes, write_json
from harness.storage.record import RunFolder, parquet
from harness.tasks.base import Outcome
from harness.training.checkpoint import finish_checkpoints
from harness.training.train import Trained

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.execution.session import Prepared
    from harness.track import Tracker

START = "start/weights.safetensors"
"""The weights, merged, that the last stage started from: its trained state belongs to them."""
Heads = dict[str, dict[str, Any]]
"""Task → the modules of its head by name."""


@dataclass
class Task:
    """One task of the sequence."""

    name: str
    config: RunConfig
    """The run's, with this task alone."""
    prepared: Prepared

    @property
    def questions(self) -> dict[str, Any]:
        """Return what R is measured on."""
        return {"test": self.prepared.questions["test"]}


@dataclass
class Course:
    """The state of a sequence between its stages."""

    config: RunConfig
    folder: RunFolder
    tasks: list[Task]
    device: torch.device
    heads: Heads = field(default_factory=dict)
    base: dict[str, Outcomes] = field(default_factory=dict)
    stages: list[dict[str, list[Outcome]]] = field(default_factory=list)
    """After each stage: the test outcomes of every task."""
    trained: list[Trained] = field(default_factory=list)

    def stage(self, number: int) -> RunFolder:
        """Return the folder of stage `number`, counted from 0."""
        return self.folder.stage(f"{number + 1}-{self.tasks[number].name}")

    def meet(self) -> None:
        """Answer every task with the untouched model, and keep the head that each starts with."""
        for task in self.tasks:
            backbone = run.load(task.config, task.prepared)
            self.base[task.name] = run.base_outcomes(task.config, task.prepared, backbone, self.device)
            self.heads[task.name] = head_of(backbone.model, head_modules(backbone))

    def measure(self, model: nn.Module, number: int) -> dict[str, list[Outcome]]:
        """Answer every task with the model as stage `number` left it, each through its own head."""
        own = head_of(model, self.heads[self.tasks[number].name])
        found = {}
        for task in self.tasks:
            put_head(model, own if task is self.tasks[number] else self.heads[task.name], self.device)
            settings = task.config.train
            found[task.name] = answer(model, task.prepared.objective, task.questions, settings, "evaluate")["test"]
        put_head(model, own, self.device)
        self.heads[self.tasks[number].name] = own
        return found

    def finished(self, number: int) -> bool:
        """Return whether a stage is done, by an earlier attempt; its results are then read."""
        folder = self.stage(number).path / "done"
        if not folder.is_dir():
            return False
        self.stages.append(read_series(folder / "items.parquet"))
        self.trained.append(Trained(**json.loads((folder / "trained.json").read_text(encoding="utf-8"))))
        return True

    def finish(self, number: int, model: nn.Module, trained: Trained) -> nn.Module:
        """Keep a stage's results and the state that the next one starts from; return the model to go on with."""
        last = number + 1 == len(self.tasks)
        model = model if last else self.hand_over(model, number)
        with new_folder(self.stage(number).path / "done") as folder:
            rows = [{"split": name, **asdict(o)} for name, outcomes in self.stages[number].items() for o in outcomes]
            (folder / "items.parquet").write_bytes(parquet(rows))
            write_json(folder / "trained.json", asdict(trained))
            self.save_heads(folder)
            if not last:
                self.save_state(model, folder)
        self.trained.append(trained)
        if number and last is False:
            shutil.rmtree(self.stage(number - 1).path / "done" / "state", ignore_errors=True)
        return model

    def hand_over(self, model: nn.Module, number: int) -> nn.Module:
        """Merge, or leave the state as it is; either way the next task's head takes the place of this one's."""
        merged = self.config.method.merge(model) if self.merges else model
        put_head(merged, deepcopy(self.heads[self.tasks[number + 1].name]), self.device)
        return merged

    @property
    def merges(self) -> bool:
        """Return whether the state is merged between two tasks."""
        return self.config.sequence_between is Between.merge

    def save_state(self, model: nn.Module, folder: Path) -> None:
        """Write the state that the next stage starts from."""
        if self.merges:
            (folder / "state" / START).parent.mkdir(parents=True)
            save_model(model, str(folder / "state" / START))
        else:
            (folder / "state").mkdir()
            self.config.method.save(model, folder / "state")

    def save_heads(self, folder: Path) -> None:
        """Write the tensors of every task's head."""
        tensors = {
            f"{task}|{module}|{name}": tensor.detach().cpu().contiguous()
            for task, modules in self.heads.items()
            for module, held in modules.items()
            for name, tensor in held.state_dict().items()
        }
        save_file(tensors, folder / "heads.safetensors")

    def begin(self, number: int, model: nn.Module | None, backbone: Backbone) -> nn.Module:
        """Return the model of a stage, ready to train: from the stage before, in memory or from disk."""
        before = self.stage(number - 1).path / "done" if number else None
        if before is not None and model is None:
            self.load_heads(before)
        if before is not None and self.merges:
            restore_start(backbone.model, before / "state") if model is None else take_over(backbone, model)
        if before is not None and not self.merges and model is not None:
            return model
        attached = run.attach(self.config, backbone, self.device)
        if before is not None and not self.merges:
            self.config.method.load(attached, before / "state")
        return attached

    def load_heads(self, folder: Path) -> None:
        """Read the heads back as they were after a stage."""
        stored = load_file(folder / "heads.safetensors")
        for task, modules in self.heads.items():
            for module, held in modules.items():
                prefix = f"{task}|{module}|"
                held.load_state_dict({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})


def take_over(backbone: Backbone, merged: nn.Module) -> None:
    """Go on with a merged model in the place of the one just loaded."""
    backbone.model = cast("transformers.PreTrainedModel", merged)


def restore_start(model: nn.Module, folder: Path) -> None:
    """Read the weights that a sequence's stage started from, where `folder` has them, into a loaded base."""
    if (folder / START).exists():
        load_model(model, folder / START)


def head_of(model: nn.Module, names: Iterable[str]) -> dict[str, Any]:
    """Return copies of the modules of the model's head, none for a decoder."""
    return {name: deepcopy(active(plain(model).get_submodule(name))) for name in names}


def put_head(model: nn.Module, modules: dict[str, Any], device: torch.device) -> None:
    """Put modules in the place of the model's head, inside of PEFT's wrapper where they are trained."""
    from peft.utils import ModulesToSaveWrapper

    for name, module in modules.items():
        place = plain(model).get_submodule(name)
        if isinstance(place, ModulesToSaveWrapper):
            place.modules_to_save[place.active_adapters[0]] = module.to(device).requires_grad_(True)
        else:
            plain(model).set_submodule(name, module.to(device).requires_grad_(True))


def active(module: Any) -> Any:
    """Return the trained copy inside of PEFT's wrapper, or the module itself."""
    from peft.utils import ModulesToSaveWrapper

    return module.modules_to_save[module.active_adapters[0]] if isinstance(module, ModulesToSaveWrapper) else module


@dataclass
class Onward:
    """A tracker whose steps go on from stage to stage."""

    tracker: Tracker
    steps: int

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add one line of history."""
        self.tracker.log(metrics, self.steps + step)


def work(config: RunConfig, folder: RunFolder, tracker: Tracker) -> dict[str, Any]:
    """Train the tasks in order and measure every one after each; return what the run adds to its record.

    Raises :class:`NotApplicable` where the method cannot be merged, or a task has no score an item.
    """
    reason = unsuitable(config)
    if reason is not None:
        raise NotApplicable(reason)
    meter = Meter(device_of(config.train.use_cpu))
    with meter.phase("tokenise"):
        tasks = [Task(name, one, session.prepare(one)) for name, one in singles(config)]
        probing = fit(config, tasks[-1].prepared)
    course = Course(config, folder, tasks, meter.device)
    with meter.phase("evaluate_base"):
        course.meet()
    with run.forgetting_phase(meter, probing, "forgetting_base"):
        probing.measure_base(lambda: untouched(course))
    model, parameters = train_all(course, probing, meter, tracker)
    return conclude(course, probing, meter, tracker, model, parameters)


def singles(config: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    """Yield each task's name, and the configuration of a run over it alone."""
    for name in config.sequence:
        yield name, replace(config, task=config.sequence_tasks[name], sequence=[], sequence_tasks={})


def untouched(course: Course) -> nn.Module:
    """Return the untouched model with the last task's head as it starts."""
    task = course.tasks[-1]
    backbone = run.load(task.config, task.prepared)
    return run.untouched(task.config, task.prepared, backbone).to(course.device)


def train_all(course: Course, probing: Probing, meter: Meter, tracker: Tracker) -> tuple[nn.Module, dict[str, int]]:
    """Train every stage that an earlier attempt did not finish; return the model and its counts of parameters."""
    model: nn.Module | None = None
    parameters: dict[str, int] = {}
    for number in range(len(course.tasks)):
        if course.finished(number) and number + 1 < len(course.tasks):
            continue
        model, parameters = _stage(course, number, model, probing, meter, tracker)
    assert model is not None
    return model, parameters


def _stage(
    course: Course, number: int, model: nn.Module | None, probing: Probing, meter: Meter, tracker: Tracker
) -> tuple[nn.Module, dict[str, int]]:
    """Train one stage and measure every task after it."""
    task, folder = course.tasks[number], course.stage(number)
    del course.stages[number:], course.trained[number:]
    with meter.phase("load"):
        backbone = run.load(task.config, task.prepared)
        counts = {"total": sum(map(run.size, backbone.model.parameters()))}
        current = course.begin(number, model, backbone)
        counts["trainable"] = sum(map(run.size, trainable(current).values()))
    with meter.phase("train"):
        onward: Any = Onward(tracker, sum(done.steps for done in course.trained))
        probes = probing if number + 1 == len(course.tasks) else probing.without_head()
        trained = run.learn(task.config, task.prepared, probes, current, backbone.head, folder, onward)
    with meter.phase("evaluate"):
        course.stages.append(course.measure(current, number))
    with meter.phase("save"):
        current = course.finish(number, current, trained)
        finish_checkpoints(folder.checkpoints, course.config.train.keep_checkpoints)
    return current, counts


def conclude(
    course: Course, probing: Probing, meter: Meter, tracker: Tracker, model: nn.Module, parameters: dict[str, int]
) -> dict[str, Any]:
    """Measure what was lost, keep the trained state and every item, and return what the record says."""
    config, folder, last = course.config, course.folder, course.tasks[-1]
    with meter.phase("evaluate"):
        after = answer(model, last.prepared.objective, last.prepared.questions, config.train, "evaluate")
    with run.forgetting_phase(meter, probing, "forgetting"):
        found = probing.measure(model)
        lost = {"sequence": entry(course)} | probing.record(found)
    with meter.phase("save"):
        parameters["saved_bytes"] = keep(course, model)
        kept = {"before": probing.items(probing.base), "after": probing.items(found) | items(course)}
        samples = run.keep_outcomes(folder, last.prepared, course.base[last.name], after, kept)
        join_histories(course)
    tracker.samples(samples)
    tracker.adapter(folder.trained)
    results = run.results(config, last.prepared, course.base[last.name], after, total(course.trained), meter)
    return results | {"parameters": parameters, "forgetting": lost, "sequence": matrix(course)}


def total(stages: list[Trained]) -> Trained:
    """Return what all stages took together."""
    return Trained(**{name: sum(getattr(stage, name) for stage in stages) for name in asdict(stages[0])})


def keep(course: Course, model: nn.Module) -> int:
    """Write the trained state, and where it was merged before, the weights that it belongs to."""
    size = run.keep(course.config, model, course.folder)
    before = course.stage(len(course.tasks) - 2).path / "done" / "state" / START
    if before.exists() and not isinstance(course.config.method, DirectMethod):  # which saves all that ever trained
        (course.folder.trained / START).parent.mkdir()
        shutil.copy(before, course.folder.trained / START)
        size += before.stat().st_size
    return size


def scores(course: Course) -> tuple[list[list[list[float]]], list[list[float]]]:
    """Return the items' scores of each task after each stage, and with the untouched model."""
    names = [task.name for task in course.tasks]
    after = [[[o.score for o in stage[name]] for name in names] for stage in course.stages]
    return after, [[o.score for o in course.base[name]["test"]] for name in names]


def matrix(course: Course) -> dict[str, Any]:
    """Return R and b, means of the items' scores, and what is computed of them."""
    after, base = scores(course)
    return {
        "tasks": [task.name for task in course.tasks],
        "between": course.config.sequence_between.value,
        "R": [[sum(values) / len(values) for values in stage] for stage in after],
        "b": [sum(values) / len(values) for values in base],
        "definitions": DEFINITIONS,
    }


def entry(course: Course) -> dict[str, Any]:
    """Return the record's entry of the sequence among the probes."""
    metrics = {name: asdict(change) for name, change in intervals(*scores(course)).items()}
    head = {"probe": "sequence", "version": VERSION, "status": "measured", "reason": None}
    return head | {"headline": HEADLINE, "notes": {}, "metrics": metrics}


def items(course: Course) -> dict[str, list[Outcome]]:
    """Return the outcomes that R is made of as ``items.parquet`` names them: stage 0 is the untouched model."""
    found = {f"forgetting/sequence/0/{name}": outcomes["test"] for name, outcomes in course.base.items()}
    for number, stage in enumerate(course.stages, 1):
        found |= {f"forgetting/sequence/{number}/{name}": outcomes for name, outcomes in stage.items()}
    return found


def join_histories(course: Course) -> None:
    """Write the run's history out of the stages', steps and tokens going on, each line with its task."""
    lines, steps, tokens = [], 0, 0
    for number, (task, trained) in enumerate(zip(course.tasks, course.trained, strict=True)):
        text = (course.stage(number).path / "history.jsonl").read_text(encoding="utf-8")
        for made in map(json.loads, text.splitlines()):
            place = {"step": made["step"] + steps, "tokens": made["tokens"] + tokens, "task": task.name}
            lines.append(json.dumps(made | place) + "\n")
        steps, tokens = steps + trained.steps, tokens + trained.tokens
    write_bytes(course.folder.path / "history.jsonl", "".join(lines).encode())
