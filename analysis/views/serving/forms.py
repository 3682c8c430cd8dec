"""A finished run in the forms that it can be served in: its base, the adapter on it, merged into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from analysis.views.serving.measure import held
from harness import runtime
from harness.config import RunConfig
from harness.errors import NotApplicable
from harness.execution.loading import load_untouched, merge
from harness.execution.reload import config_of, done_record, load_tuned, prepare_without_data
from harness.execution.session import Prepared
from harness.methods.base import DirectMethod
from harness.runtime import Runtime
from harness.storage.record import NO_WEIGHTS, of_search

BASE, BESIDE, MERGED = "base", "adapter on base", "merged"


@dataclass(frozen=True)
class Served:
    """One form of one run."""

    form: str
    model: nn.Module
    file: int
    """Bytes of the weights that are kept for it: the base's, the adapter's beside the base, or the merged model's."""


@dataclass(frozen=True)
class Run:
    """A finished run of a decoder."""

    folder: Path
    record: dict[str, Any]
    config: RunConfig
    prepared: Prepared
    here: Runtime

    @property
    def label(self) -> str:
        """Return the method with its rank."""
        rank = self.config.method.rank_used
        return self.config.method.name + (f" r{rank}" if rank else "")

    def forms(self) -> list[Served]:
        """Load the run in each form that it has; three models are held at once, and no other run's."""
        base = load_untouched(self.config, self.prepared, self.here).model.to(self.here.device)
        found = [Served(BASE, base, self._base_bytes())]
        method = self.config.method
        if not isinstance(method, DirectMethod):
            found.append(Served(BESIDE, self._tuned(), _weights_files(self.folder / "trained")))
        if method.mergeable or method.left_by_merge:
            merged = merge(self.config, self._tuned())
            found.append(Served(MERGED, merged, held(list(merged.parameters()))))
        return found

    def _tuned(self) -> nn.Module:
        return load_tuned(self.record, self.config, self.prepared, self.folder)[0]

    def _base_bytes(self) -> int:
        return _weights_files(self.prepared.files.folder)


def opened(folder: Path) -> Run:
    """Return a run; raise :class:`NotApplicable` for one that generates no tokens or kept no weights."""
    record = done_record(folder)
    if of_search(record):
        raise NotApplicable(NO_WEIGHTS)
    config = config_of(record)
    prepared = prepare_without_data(config)
    if prepared.kind != "decoder":
        raise NotApplicable("an encoder generates no tokens")
    return Run(folder, record, config, prepared, runtime.resolve(config))


def _weights_files(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
