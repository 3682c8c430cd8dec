"""A finished run brought back: its record as the configuration it was trained from, its tuned model."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import harness.forgetting.probes
import harness.methods
import harness.tasks
from harness.config import RunConfig
from harness.errors import ConfigError, NotApplicable, RecordError, first_line, nearest
from harness.forgetting.base import PROBES
from harness.forgetting.texts import Text
from harness.methods.base import METHODS
from harness.storage.record import Status, read_record
from harness.tasks.base import TASKS

if TYPE_CHECKING:
    from torch import nn

    from harness.execution.session import Prepared
    from harness.models import Backbone


def done_record(folder: Path) -> dict[str, Any]:
    """Read the record of a run that is done; raise :class:`RecordError` where it is damaged or not done."""
    record = read_record(folder)
    if record["status"] != Status.done.value:
        reason = f": {record['reason']}" if record.get("reason") else ""
        raise RecordError(f"{folder}: the run is not done but {record['status']}{reason}")
    return record


def config_of(record: dict[str, Any]) -> RunConfig:
    """Return the configuration a record holds, as the dataclasses it was resolved from.

    Settings that a record of an earlier version lacks take their defaults. Raises :class:`RecordError`
    where the record holds what this version does not know.
    """
    PROBES.discover(harness.forgetting.probes)
    METHODS.discover(harness.methods)
    TASKS.discover(harness.tasks)
    where = f"record {record['id']}"
    try:
        stored = dict(record["config"])
        method, task = dict(stored["method"]), dict(stored["task"])
        made_there = record.get("runtime", {}).get("method", {})  # by the device that trained it, not by this one
        stored["method"] = _built(METHODS[method.pop("name")], method | made_there, f"{where}: method")
        stored["task"] = _built(TASKS[task.pop("kind")], task, f"{where}: task")
        tasks = {name: dict(member) for name, member in stored.get("sequence_tasks", {}).items()}
        stored["sequence_tasks"] = {
            name: _built(TASKS[member.pop("kind")], member, f"{where}: task {name}") for name, member in tasks.items()
        }
        if "forgetting" in stored:
            stored["forgetting"] = _forgetting(dict(stored["forgetting"]), where)
        return _built(RunConfig, stored, where)
    except ConfigError as error:
        raise RecordError(f"{where}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{where}: its configuration is damaged ({type(error).__name__}: {error})") from None


def _forgetting(stored: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the settings of what was measured besides, its probes and texts as their dataclasses."""
    probes = {label: dict(probe) for label, probe in stored["probes"].items()}
    return stored | {
        "probes": {
            label: _built(PROBES[probe.pop("name")], probe, f"{where}: probe {label}")
            for label, probe in probes.items()
        },
        "texts": {name: _built(Text, dict(text), f"{where}: text {name}") for name, text in stored["texts"].items()},
    }


def _built(cls: type[Any], stored: dict[str, Any], where: str) -> Any:
    """Return a dataclass from plain values, refusing keys it does not have."""
    known = {field.name for field in fields(cls)}
    unknown = sorted(set(stored) - known)
    if unknown:
        raise RecordError(f"{where}.{unknown[0]}: no such key in this version; {nearest(unknown[0], known)}")
    hints = get_type_hints(cls)
    return cls(**{key: _typed(hints[key], value, f"{where}.{key}") for key, value in stored.items()})


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Return a plain value as what its annotation says; values already typed stay as they are."""
    if isinstance(value, list) and get_origin(hint) is list:
        return [_typed(get_args(hint)[0], one, where) for one in value]
    options = [option for option in get_args(hint) if option is not NoneType] if NoneType in get_args(hint) else [hint]
    for option in options:
        if isinstance(option, type) and issubclass(option, Enum) and value is not None:
            return option(value)
        if is_dataclass(option) and isinstance(option, type) and not isinstance(value, option):
            return _built(option, dict(value), where)
    return value


def load_run(folder: Path) -> tuple[nn.Module, Backbone, Prepared]:
    """Return a finished run's tuned model in evaluation mode, its backbone, and its task's items.

    Raises a :class:`HarnessError` in one line where the record, the base's files, the data or the trained
    state cannot be had or are not those of the run.
    """
    from harness.execution import session

    record = done_record(folder)
    config = config_of(record)
    prepared = session.prepare(config)
    model, backbone = load_tuned(record, config, prepared, folder)
    return model, backbone, prepared


def prepare_without_data(config: RunConfig) -> Prepared:
    """Return what loading the model needs and no items: the data a run was trained on may be gone since."""
    from harness.execution.session import Prepared
    from harness.models import kind_of, load_tokenizer
    from harness.objectives import build
    from harness.storage import assets
    from harness.tasks.base import Splits

    files = assets.fetch_model(config.model, assets.cache_root(config.cache_dir))
    kind = kind_of(files.folder, config.model)
    objective = build(config.task, kind, load_tokenizer(files))
    return Prepared(files, kind, config.task, Splits([], [], []), objective, [], {})


def load_tuned(
    record: dict[str, Any], config: RunConfig, prepared: Prepared, folder: Path, state: Path | None = None
) -> tuple[nn.Module, Backbone]:
    """Return the tuned model in evaluation mode and its backbone, attached as for training.

    `state` is a kept checkpoint of the run, in the place of its trained state.
    """
    from harness import runtime
    from harness.execution.loading import attach, load
    from harness.execution.model import restore_start

    _require_same_files(record, prepared)
    try:
        here = runtime.resolve(config)
        backbone = load(config, prepared, here)
        restore_start(backbone.model, folder / "trained")
        model = attach(config, backbone, here)
    except NotApplicable as error:
        raise RecordError(f"{folder}: the method no longer applies to the model: {error}") from error
    _read_trained(config, model, state or folder / "trained")
    return model.eval(), backbone


def _require_same_files(record: dict[str, Any], prepared: Prepared) -> None:
    """Refuse a base whose files are not those the run was trained from."""
    trained_from: dict[str, str] = record.get("hashes", {}).get("model", {})
    changed = sorted(name for name, sha256 in trained_from.items() if prepared.files.hashes.get(name) != sha256)
    if changed:
        raise RecordError(f"record {record['id']}: {prepared.files.origin} has changed since the run: {changed[0]}")


def _read_trained(config: RunConfig, model: nn.Module, trained: Path) -> None:
    from safetensors import SafetensorError

    if not trained.is_dir():
        raise RecordError(f"{trained}: the trained state is missing")
    try:
        config.method.load(model, trained)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecordError(f"{trained}: the trained state cannot be read: {first_line(error)}") from error
