"""A run's identity: a hash of everything that was resolved and can change its result."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import ForgettingConfig, ModelConfig, ModelKind, Purpose, RunConfig, require
from harness.errors import ConfigError
from harness.storage.assets import model_hashes
from harness.storage.manifest import sha256_of
from harness.storage.privacy import expanded, masked
from harness.tasks.base import Task

if TYPE_CHECKING:
    from harness.forgetting.base import Probe

SAID = "is said for people and read by nothing that computes"
DESCRIPTIVE = dict.fromkeys(("licence", "citation", "source", "note", "name", "dataset"), SAID) | {
    "architecture": "read by the planner alone, which trains nothing; a model's own files decide"
}
"""Fields of models, tasks and texts that change no result, and why."""
OPERATIONAL = {
    "logging_steps": "how often a loss is written",
    "save_steps": "how often a checkpoint is written; a resumed run ends as one that was not cut",
    "keep_checkpoints": "what stays on disk; a finished run says that it did not keep them",
    "dataloader_num_workers": "who reads the items, whose order is written down before",
    "learning_rate_factor": "counts within the learning rate",
}
"""Fields of ``train`` that change no result, and why."""
LATER = {"fused_loss": False, "selective_checkpointing": False}
"""Fields of ``train`` that came after ids were given out, at what every run was before: other values count.

So a run of the default ``fused_loss=true`` has another id than one of the time when there were plain logits alone, and
``train.fused_loss=false`` has that one's.
"""
ENCODERS = ("BertModel", "ForMaskedLM", "ForSequenceClassification")
"""Ends of the class names of encoders, whose head has no vocabulary: ``fused_loss`` changes nothing of theirs."""
OUTSIDE = {
    "tracker": "where numbers are shown",
    "sweep": "a run's place in its sweep",
    "search": "how a learning rate was chosen; the chosen one counts",
    "rank": "counts where a method's own field holds it",
    "sequence_task": "counts within the tasks of the sequence",
    "processes": "how many share the work; the record says, and the comparison warns of rows that differ in it",
    "distributed": "what each process holds of the model; the record says",
    "offload": "in which memory it lies",
    "retry": "which runs a command trains again",
    "resume": "whether a cut run may go on elsewhere; the record says if it did",
    "output_dir": "where runs are kept",
    "dry_run": "whether anything is done at all",
    "estimate": "whether a dry run says how long runs take",
    "cache_dir": "where fetched files are kept, each checked by its hash",
}
"""Keys of the whole configuration that change no result, and why."""
UNFIT = {"unfit": "whether a probe that does not fit ends the run or stands in the record as not applicable"}
"""The field of ``forgetting`` that changes no result."""


def plain(value: Any) -> Any:
    """Return dataclasses and enums as what JSON can hold."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def resolved(config: RunConfig) -> dict[str, Any]:
    """Return the whole configuration as plain values, with kinds and method names spelt out."""
    whole = plain(config)
    whole["task"]["kind"] = config.task.name
    whole["method"]["name"] = config.method.name
    for name in ("retry", "resume"):  # of this command, not of the run
        whole.pop(name)
    whole["train"] |= {"learning_rate": learning_rate(config), "learning_rate_factor": 1.0}
    for name, task in config.sequence_tasks.items():
        whole["sequence_tasks"][name]["kind"] = task.name
    for label, probe in config.forgetting.probes.items():
        whole["forgetting"]["probes"][label]["name"] = probe.name
    return whole  # type: ignore[no-any-return]


def learning_rate(config: RunConfig) -> float:
    """Return the rate that trains: ``train.learning_rate`` or the method's own, times the factor.

    Ten digits, so that 0.1 · 3 is the run of ``train.learning_rate=0.3``.
    """
    given = config.train.learning_rate
    rate = config.method.learning_rate if given is None else given
    return float(f"{rate * config.train.learning_rate_factor:.10g}")


def digest(value: Any, length: int = 10) -> str:
    """Return the first hexadecimal digits of a value's SHA-256, the same for equal values."""
    text = json.dumps(plain(value), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """Return what decides a model: pinned source, or the hashes of a local folder's files; and its precision."""
    files = model.path or model.id or model.wheel.package
    left_out = {*DESCRIPTIVE, "path"} - (set() if files else {"architecture"})
    left_out |= set() if model.parts else {"parts"}  # which came after ids were given out
    values = {key: value for key, value in plain(model).items() if key not in left_out}
    return values | ({"files": folder_hashes(expanded(model.path))} if model.path else {})


def is_encoder(model: ModelConfig) -> bool:
    """Return whether a model is known to be an encoder before its files are there: by ``kind`` or its architecture."""
    classes = model.architecture.get("architectures") or [""]
    return model.kind is ModelKind.encoder or str(classes[0]).endswith(ENCODERS)


def folder_hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file of a model folder that decides its outputs."""
    if not (folder / "config.json").is_file():
        raise ConfigError("model.path", folder, "no such model folder: it needs a config.json and *.safetensors")
    return model_hashes(folder)


def task_identity(task: Task) -> dict[str, Any]:
    """Return what decides a task's items and how they are scored; local files count by their content."""
    values = {key: value for key, value in plain(task).items() if key not in DESCRIPTIVE}
    values = {key: value for key, value in values.items() if key not in task.later or value != task.later[key]}
    return by_content("task", values | {"kind": task.name}, task.files())


def identity(config: RunConfig) -> dict[str, Any]:
    """Return everything that can change a run's result, and nothing else.

    The top-level rank is left out: it counts only where the method's own fields hold it, so
    ``method=full rank=8,16`` is one run.
    """
    train = {key: value for key, value in plain(config.train).items() if key not in OPERATIONAL}
    train = {key: value for key, value in train.items() if key not in LATER or value != LATER[key]}
    if is_encoder(config.model):
        train.pop("fused_loss", None)
    method = plain(config.method) | {"name": config.method.name}
    train["learning_rate"] = method["learning_rate"] = learning_rate(config)
    return (
        {
            "model": model_identity(config.model),
            "task": task_identity(config.task),
            "method": method,
            "train": train,
            "seed": config.seed,
        }
        | ({"purpose": "search"} if config.purpose is Purpose.search else {})
        | forgetting_identity(config.forgetting)
        | sequence_identity(config)
    )


def forgetting_identity(settings: ForgettingConfig) -> dict[str, Any]:
    """Return the probes with their versions and what they read; nothing where a run has none.

    Training does not depend on them, but a record is a run's whole result: one without a probe is not the same.
    """
    if not settings.active:
        return {}
    values = {key: value for key, value in plain(settings).items() if key not in UNFIT}
    values["probes"] = {label: probe_identity(label, probe) for label, probe in settings.probes.items()}
    for name, text in settings.texts.items():
        described = {key: value for key, value in plain(text).items() if key not in DESCRIPTIVE}
        values["texts"][name] = by_content(f"forgetting.texts.{name}", described, text.files())
    return {"forgetting": values}


def probe_identity(label: str, probe: Probe) -> dict[str, Any]:
    """Return a probe's name, version and settings; local files count by their content."""
    values = plain(probe) | {"name": probe.name, "version": probe.version}
    return by_content(f"forgetting.probes.{label}", values, probe.files())


def by_content(key: str, values: dict[str, Any], files: dict[str, Path]) -> dict[str, Any]:
    """Return settings with hashes in the place of paths, which `files` has by setting, as ``Probe.files`` does."""
    hashes: dict[str, dict[str, str]] = {}
    for role, path in files.items():
        require(path.is_file(), f"{key}.{role}", masked(str(path)), "there is no such file")
        setting, _, name = role.partition("/")
        hashes.setdefault(setting, {})[name] = sha256_of(path)
    for setting, found in hashes.items():
        *parents, last = (int(part) if part.isdigit() else part for part in setting.split("."))
        holder: Any = values
        for part in parents:
            holder = holder[part]
        holder[last] = found[""] if list(found) == [""] else found
    return values


def sequence_identity(config: RunConfig) -> dict[str, Any]:
    """Return the tasks of a sequence in order and what happens between them; nothing where there is one task."""
    if not config.sequence:
        return {}
    tasks = {name: task_identity(config.sequence_tasks[name]) for name in config.sequence}
    return {"sequence": {"order": config.sequence, "tasks": tasks, "between": config.sequence_between.value}}


def run_id(config: RunConfig) -> str:
    """Return the run's folder name: its method for people, and the hash of its identity."""
    rank = config.method.rank_used
    label = config.method.name if rank is None else f"{config.method.name}-r{rank}"
    return f"{label}-{digest(identity(config))}"


def commit() -> tuple[str | None, bool | None]:
    """Return this project's git commit and whether the tree has changes, None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
