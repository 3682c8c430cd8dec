"""The probes of a run: fitted, measured on the base once a sweep, measured on the tuned model, and compared."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from harness.config import RunConfig, Unfit
from harness.errors import ConfigError, NotApplicable, first_line
from harness.forgetting.base import Change, Items, Measured, Probe
from harness.forgetting.subject import Subject, undisturbed
from harness.identity import digest, plain
from harness.models import load_backbone
from harness.runtime import Runtime, versions
from harness.storage.files import new_folder, write_json
from harness.storage.record import parquet
from harness.tasks.base import Outcome

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from harness.execution.session import Prepared

log = logging.getLogger(__name__)

Found = dict[str, Measured]
"""What each probe found of a model, by the probe's label."""


@dataclass
class Fitted:
    """A probe that fits the run's model, with what it will measure."""

    probe: Probe
    material: Any
    fingerprint: str


@dataclass
class Probing:
    """The probes of one run."""

    config: RunConfig
    prepared: Prepared
    runtime: Runtime
    fitted: dict[str, Fitted] = field(default_factory=dict)
    unfit: dict[str, tuple[Probe, str]] = field(default_factory=dict)
    """Probes that are not applicable, with the reason."""
    base: Found = field(default_factory=dict)

    def without_head(self) -> Probing:
        """Return those probes that read no head of an encoder: during another task of a sequence it is that one's."""
        encoder = self.prepared.kind == "encoder"
        kept = {label: fitted for label, fitted in self.fitted.items() if not (encoder and fitted.probe.reads_head)}
        return replace(self, fitted=kept)

    def measure_base(self, untouched: Callable[[], nn.Module]) -> None:
        """Fill in the base's numbers, from disk where an earlier run left them; else `untouched` is called once."""
        loaded: list[Subject] = []

        def subject() -> Subject:
            if not loaded:
                loaded.append(self._subject(untouched()))
                self._announce(loaded[0], {})
            return loaded[0]

        for label in list(self.fitted):
            try:
                self.base[label] = self._kept_or_measured(label, subject)
            except NotApplicable as error:
                self.unfit[label] = (self.fitted.pop(label).probe, str(error))

    def _kept_or_measured(self, label: str, subject: Callable[[], Subject]) -> Measured:
        store = self.store(label)
        with store.lock():
            found = store.read()
            if found is None:
                found = self._measure(label, subject(), None)
                store.write(found)
        return found

    def measure(self, model: nn.Module) -> Found:
        """Measure the tuned model as it is now, and leave it as it is."""
        subject = self._subject(model)
        self._announce(subject, self.base)
        return {label: self._measure(label, subject, self.base[label]) for label in self.fitted}

    def _measure(self, label: str, subject: Subject, base: Measured | None) -> Measured:
        fitted = self.fitted[label]
        with undisturbed(subject.model, self.runtime), self.runtime.autocast():
            return fitted.probe.measure(subject, fitted.material, base)

    def _announce(self, subject: Subject, base: Found) -> None:
        for label, fitted in self.fitted.items():
            fitted.probe.announce(subject, fitted.material, base.get(label))

    def _subject(self, model: nn.Module) -> Subject:
        return Subject(model, self.config, self.prepared, self._load_untouched)

    def _load_untouched(self) -> PreTrainedModel:
        return load_backbone(self.prepared.pretrained(self.config), self.runtime.device).model

    def store(self, label: str) -> Store:
        """Return where the base's numbers for a probe are kept."""
        fitted, config = self.fitted[label], self.config
        has_new_head = fitted.probe.reads_head and self.prepared.kind == "encoder"
        return Store(
            Path(config.output_dir) / ".base",
            {
                "model": self.prepared.files.hashes,
                "kind": self.prepared.kind,
                "computed": self.runtime.key(),
                "batch": config.train.per_device_eval_batch_size,
                "probe": {"name": fitted.probe.name, "version": fitted.probe.version, **plain(fitted.probe)},
                "material": fitted.fingerprint,
                "head_seed": config.seed if has_new_head else None,
            },
        )

    def changes(self, found: Found) -> dict[str, dict[str, Change]]:
        """Return each probe's metrics, before and after."""
        return {
            label: fitted.probe.compare(self.base[label].items, found[label].items)
            for label, fitted in self.fitted.items()
        }

    def history(self, found: Found) -> dict[str, float]:
        """Return the tuned model's numbers as a line of history has them."""
        return {
            f"forgetting/{label}/{name}": change.after.value
            for label, metrics in self.changes(found).items()
            for name, change in metrics.items()
        }

    def record(self, found: Found) -> dict[str, Any]:
        """Return the record's entry for each probe: its version, its base's key, its metrics with intervals."""
        entries = {label: _entry(probe, "not_applicable", reason) for label, (probe, reason) in self.unfit.items()}
        for label, metrics in self.changes(found).items():
            fitted = self.fitted[label]
            entries[label] = _entry(fitted.probe, "measured", None) | {
                "base": self.store(label).key,
                "material": fitted.fingerprint,
                "notes": fitted.probe.notes(fitted.material),
                "headline": fitted.probe.headline,
                "metrics": {name: asdict(change) for name, change in metrics.items()},
            }
        return {label: entries[label] for label in self.config.forgetting.probes}

    def items(self, found: Found) -> Items:
        """Return all series of per-item outcomes as ``items.parquet`` names them."""
        return {
            f"forgetting/{label}/{series}": outcomes
            for label, measured in found.items()
            for series, outcomes in measured.items.items()
        }


def _entry(probe: Probe, status: str, reason: str | None) -> dict[str, Any]:
    return {"probe": probe.name, "version": probe.version, "status": status, "reason": reason, "metrics": {}}


def fit(config: RunConfig, prepared: Prepared, runtime: Runtime) -> Probing:
    """Return the run's probes, each with what it will measure.

    Raises a :class:`HarnessError` in one line where a probe does not fit and ``forgetting.unfit`` is ``refuse``,
    or where what it reads cannot be had.
    """
    probing = Probing(config, prepared, runtime)
    for label, probe in config.forgetting.probes.items():
        reason = probe.unsuitable(config, prepared)
        if reason is None:
            material = probe.prepare(config, prepared)
            probing.fitted[label] = Fitted(probe, material, probe.fingerprint(material))
        elif config.forgetting.unfit is Unfit.refuse:
            raise ConfigError(f"forgetting.probes.{label}", probe.name, f"does not fit: {reason}")
        else:
            probing.unfit[label] = (probe, reason)
    return probing


class Store:
    """What a probe found of an untouched model, computed once for all runs that share it, under its hash."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.identity = identity | {"versions": versions()}
        self.key = digest(self.identity, 16)
        self.path = folder / f"probe-{self.key}"

    def lock(self) -> FileLock:
        """Return a lock that lets one process compute what others wait for."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_name(f".{self.path.name}.lock"))

    def read(self) -> Measured | None:
        """Return what is kept, None where there is nothing yet or it is damaged."""
        if not self.path.exists():
            return None
        try:
            return Measured(read_series(self.path / "items.parquet"), load_file(self.path / "tensors.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:  # pyarrow's are ValueErrors
            reason = first_line(error)
            log.warning("%s is damaged (%s); computing it again", self.path, reason)
            return None

    def write(self, found: Measured) -> None:
        """Keep what was found, and what it was found of."""
        with new_folder(self.path) as folder:
            write_json(folder / "identity.json", json.loads(json.dumps(self.identity)))
            rows = [{"split": name, **asdict(o)} for name, outcomes in found.items.items() for o in outcomes]
            (folder / "items.parquet").write_bytes(parquet(rows))
            tensors = {name: tensor.contiguous() for name, tensor in found.tensors.items()}
            save_file(tensors, folder / "tensors.safetensors")


def read_series(path: Path, phase: str | None = None) -> Items:
    """Read series of outcomes back by name: of ``items.parquet`` those of `phase` that probes wrote."""
    import pyarrow.parquet as pq

    found: Items = {}
    for row in pq.read_table(path).to_pylist():
        name = str(row.pop("split"))
        if phase is None or (row.pop("phase") == phase and name.startswith("forgetting/")):
            found.setdefault(name, []).append(Outcome(**row))
    return found
