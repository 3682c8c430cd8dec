"""From run folders and model names to pairs of models, or to the reason why a run has no ΔW."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.intruders import Settings
from analysis.records.files import HEADLINE
from analysis.spectra.adapters import Adapter
from analysis.spectra.checkpoints import Checkpoint
from analysis.spectra.quantised import Quantisation
from analysis.spectra.weights import Pair, Wanted
from harness.errors import ConfigError, NotApplicable, RecordError
from harness.execution.reload import config_of
from harness.storage.privacy import expanded
from harness.storage.record import NO_WEIGHTS, ONLY_SEARCHES, of_search, read_record

UNKEPT, STAYS, NEVER = "its weights were not kept", "; its tables stay as they are", ", and it was never counted"


@dataclass(frozen=True)
class Job:
    """One tuned model to measure against its base, or why it cannot be."""

    name: str
    """The run's id, or the tuned folder's name."""
    out: Path
    """The folder for its tables."""
    steps: tuple[tuple[int | None, Pair], ...] = ()
    """Optimiser step → pair; None is the end of training."""
    reason: str | None = None
    """Why there is nothing to measure."""
    failed: bool = False
    """Whether that is a fault, such as a run that has not ended, rather than a property of the method."""


def jobs(settings: Settings) -> Iterator[Job]:
    """Yield everything that the settings name."""
    if settings.base is not None:
        yield _two_models(settings)
        return
    folders = run_folders(settings.runs)
    for folder in folders:
        yield _run(folder, settings, len(folders) > 1)


def run_folders(given: tuple[str, ...]) -> list[Path]:
    """Return the run folders among what was given: a run's own, or all in a folder of runs but those of searches."""
    found: dict[Path, None] = {}
    for name in given:
        folder = expanded(name)
        inside = (
            [folder] if (folder / "record.json").is_file() else sorted(p.parent for p in folder.glob("*/record.json"))
        )
        if not inside:
            raise ConfigError("run", name, "holds no run: there is no record.json in it or below")
        results = [run for run in inside if run == folder or not _is_of_search(run)]
        if not results:
            raise ConfigError("run", name, f"holds {ONLY_SEARCHES}: {NO_WEIGHTS}")
        found.update(dict.fromkeys(results))
    return list(found)


def _is_of_search(folder: Path) -> bool:
    """Return whether a run only tried a learning rate; a damaged record is said where the run is read."""
    try:
        return of_search(read_record(folder))
    except RecordError:
        return False


def _wanted(settings: Settings) -> Wanted:
    return Wanted(settings.modules, settings.embeddings, settings.heads)


def _out(settings: Settings, folder: Path, several: bool) -> Path:
    if settings.out is None:
        return folder / "analysis" / ("+".join(settings.modules) or ".")
    out = expanded(settings.out)
    return out / folder.name if several else out


def _run(folder: Path, settings: Settings, several: bool) -> Job:
    record = read_record(folder)
    out = _out(settings, folder, several)
    if of_search(record):
        return Job(record["id"], out, reason=NO_WEIGHTS)
    if record["status"] != "done":
        why = f": {record['reason']}" if record.get("reason") else ""
        return Job(record["id"], out, reason=f"{record['status']}{why}", failed=record["status"] != "not_applicable")
    reason = config_of(record).method.leaves_matrices
    if reason is not None:
        return Job(record["id"], out, reason=reason)
    if not (folder / "trained").is_dir():
        counted = (out / HEADLINE).is_file()
        return Job(record["id"], out, reason=UNKEPT + (STAYS if counted else NEVER), failed=not counted)
    try:
        return Job(record["id"], out, tuple(_steps(folder, record, settings)))
    except NotApplicable as missing:
        return Job(record["id"], out, reason=str(missing))


def _steps(folder: Path, record: dict[str, Any], settings: Settings) -> Iterator[tuple[int | None, Pair]]:
    """Yield the pair of the trained state, after those of the kept checkpoints where these are asked for."""
    base = _base_of(record)
    final = _pair_of(folder / "trained", base, record, settings)
    if settings.checkpoints:
        kept = sorted((int(p.name.rpartition("-")[2]), p) for p in (folder / "checkpoints").glob("checkpoint-*"))
        if not kept:
            again = "a finished run is skipped: train it with train.keep_checkpoints=true into another output_dir"
            raise ConfigError("checkpoints", "true", f"{folder} kept none; {again}")
        for step, path in kept:
            yield step, replace(final, tuned=read_tuned(path))
    yield None, final


def _base_of(record: dict[str, Any]) -> Path:
    """Return the folder of the model a run was trained from; refuse one that has changed since."""
    from harness.storage.assets import cache_root, fetch_model

    config = config_of(record)
    files = fetch_model(config.model, cache_root(config.cache_dir))
    for name, sha256 in sorted(record.get("hashes", {}).get("model", {}).items()):
        if files.hashes.get(name) != sha256:
            raise RecordError(f"record {record['id']}: {files.origin} has changed since the run: {name}")
    return files.folder


def _pair_of(trained: Path, base: Path, record: dict[str, Any], settings: Settings) -> Pair:
    config = config_of(record)
    dtype, rounded = config.model.dtype.value, config.method.quantised_base()
    quantisation = Quantisation(rounded[0], rounded[1], dtype) if rounded else None
    start = trained / "start"
    if quantisation and start.is_dir():
        raise NotApplicable("its last task was trained over other weights than the base's, and those were quantised")
    pair = Pair(
        Checkpoint(base, "base"),
        read_tuned(trained),
        _wanted(settings),
        quantisation,
        dtype,
        settings.vocabulary,
        Checkpoint(start, "tuned") if start.is_dir() else None,
    )
    if isinstance(pair.tuned, Adapter):
        _ = pair.tuned.config  # an adapter that is no weight change says so here
    return pair


def read_tuned(folder: Path) -> Checkpoint | Adapter:
    """Return the tuned weights of a folder: an adapter's, or a whole model's."""
    if not folder.is_dir():
        raise ConfigError("tuned", folder, "there is no such folder")
    if (folder / "adapter_config.json").is_file():
        return Adapter(folder)
    return Checkpoint(folder, "tuned")


def _two_models(settings: Settings) -> Job:
    tuned_folder = expanded(str(settings.tuned))
    tuned = read_tuned(tuned_folder)
    base = model_folder(str(settings.base))
    if isinstance(tuned, Adapter):
        _require_own_base(tuned, str(settings.base), base)
    quantisation = Quantisation(settings.quantised) if settings.quantised else None
    if quantisation and not isinstance(tuned, Adapter):
        raise ConfigError("quantised", settings.quantised, "is for adapters trained over a quantised base")
    pair = Pair(Checkpoint(base, "base"), tuned, _wanted(settings), quantisation, None, settings.vocabulary)
    out = expanded(str(settings.out))
    try:
        if isinstance(tuned, Adapter):
            _ = tuned.config
    except NotApplicable as reason:
        return Job(tuned_folder.name, out, reason=str(reason))
    return Job(tuned_folder.name, out, ((None, pair),))


def model_folder(name: str) -> Path:
    """Return the folder of a model given as a folder, as one of this project's presets, or by its hub id."""
    from harness.compose import compose, conf_folder
    from harness.config import ModelConfig
    from harness.errors import nearest
    from harness.storage.assets import cache_root, fetch_model

    if expanded(name).is_dir():
        return expanded(name)
    presets = sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml"))
    if name in presets:
        return fetch_model(compose(f"model={name}").model, cache_root(None)).folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ConfigError("base", name, f"no such folder, nor a preset; {nearest(name, presets)}, nor a hub id")
    return fetch_model(ModelConfig(id=name), cache_root(None)).folder


def _require_own_base(adapter: Adapter, given: str, folder: Path) -> None:
    """Refuse an adapter that names another base by its hub id, or whose own base differs in an adapted matrix."""
    own = adapter.config.get("base_model_name_or_path")
    if not own or not isinstance(own, str):
        return
    if expanded(own).is_dir():
        _require_same_weights(adapter, expanded(own), folder)
        return
    hub_ids = own.count("/") == 1 and given.count("/") == 1 and not expanded(given).exists()
    if hub_ids and own.lower() != given.lower():
        raise ConfigError("base", given, f"the adapter {adapter.folder} is of another base, {own}")


def _require_same_weights(adapter: Adapter, own: Path, given: Path) -> None:
    import torch

    if own.resolve() == given.resolve() or not any(own.glob("*.safetensors")):
        return
    from analysis.records.naming import Names

    module = next(module for module, parts in adapter.parts.items() if "A" in parts)
    pair = [Checkpoint(own, "base"), Checkpoint(given, "base")]
    names = [Names(checkpoint.shapes).find(f"{module}.weight") for checkpoint in pair]
    if None in names:
        return  # said with the module's name when the adapter is read
    tensors = [checkpoint.tensor(str(name)) for checkpoint, name in zip(pair, names, strict=True)]
    if not torch.equal(*tensors):
        raise ConfigError("base", given, f"the adapter {adapter.folder} is of another base, {own}: {names[1]} differs")
