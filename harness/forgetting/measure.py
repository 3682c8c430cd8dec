"""The probes of a run: fitted, measured on the base once a sweep, measured on the tuned model, and compared."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.config import RunConfig, Unfit
from harness.distributed import group
from harness.errors import ConfigError, NotApplicable
from harness.forgetting.base import Change, Items, Measured, Probe
from harness.forgetting.heads import OutputHead, untouched_head
from harness.forgetting.passes import Passes
from harness.forgetting.subject import Subject, undisturbed
from harness.identity import probe_identity
from harness.runtime import Runtime
from harness.storage.shared import SharedStore

if TYPE_CHECKING:
    from torch import nn

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
    loaded_heads: list[OutputHead] = field(default_factory=list, repr=False)
    """The untouched model's output head once it was needed; :meth:`without_head` shares it."""

    def without_head(self) -> Probing:
        """Return those probes that read no head of an encoder: during another task of a sequence it is that one's."""
        encoder = self.prepared.kind == "encoder"
        kept = {label: fitted for label, fitted in self.fitted.items() if not (encoder and fitted.probe.reads_head)}
        return replace(self, fitted=kept)

    def measure_base(self, untouched: Callable[[], nn.Module]) -> None:
        """Fill in the base's numbers, from disk where an earlier run left them; else `untouched` is called once."""
        passes = cache(lambda: self._passes(untouched(), {}))
        for label in list(self.fitted):
            try:
                self.base[label] = self._kept_or_measured(label, passes)
            except NotApplicable as error:
                self.unfit[label] = (self.fitted.pop(label).probe, str(error))

    def _kept_or_measured(self, label: str, passes: Callable[[], Passes]) -> Measured:
        store = self.store(label)
        with group.held_by_first(store.lock()):
            kept = group.by_first(store.read)
            if kept is not None:
                return Measured(*kept)
            found = self._measure(label, passes(), None)
            if group.first():
                store.write(found.items, found.tensors)
            return found

    def measure(self, model: nn.Module) -> Found:
        """Measure the tuned model as it is now, and leave it as it is."""
        passes = self._passes(model, self.base)
        return {label: self._measure(label, passes, self.base[label]) for label in self.fitted}

    def _measure(self, label: str, passes: Passes, base: Measured | None) -> Measured:
        probe, material, subject = self.fitted[label].probe, self.fitted[label].material, passes.subject
        with undisturbed(subject.model, self.runtime), self.runtime.autocast():
            readings = passes.readings(probe, material)
            found = probe.measure(replace(subject, readings=readings), material, base)
            if base is None:
                found.tensors |= passes.states(probe, material)
            return found

    def _passes(self, model: nn.Module, base: Found) -> Passes:
        passes = Passes(Subject(model, self.config, self.prepared), self.head)
        for label, fitted in self.fitted.items():
            passes.add(fitted.probe, fitted.material, base.get(label))
        return passes

    def head(self) -> OutputHead:
        """Return the untouched model's output head, loaded once for all passes of the run."""
        if not self.loaded_heads:
            self.loaded_heads.append(untouched_head(self.config, self.prepared))
        return self.loaded_heads[0]

    def free_head(self) -> None:
        """Free the head before a training without probes on its way, whose peak memory must not hold it.

        Only the run that measures the base has it by then: 113 MB on SmolLM2 would make that one look larger.
        """
        if not self.config.forgetting.every:
            self.loaded_heads.clear()

    def store(self, label: str) -> SharedStore:
        """Return where the base's numbers for a probe are kept."""
        fitted, config = self.fitted[label], self.config
        has_new_head = fitted.probe.reads_head and self.prepared.kind == "encoder"
        return SharedStore(
            config.output_dir,
            "probe",
            {
                "model": self.prepared.files.hashes,
                "kind": self.prepared.kind,
                "computed": self.runtime.key(),
                "batch": config.train.per_device_eval_batch_size,
                "probe": probe_identity(label, fitted.probe),
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
