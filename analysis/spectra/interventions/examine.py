"""The run's model, loaded and merged; its task and its probes, asked again whenever the model has changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.spectra.interventions.scaling import Weights
from harness import runtime
from harness.execution.evaluate import evaluator
from harness.execution.loading import load_untouched
from harness.execution.reload import config_of, done_record, load_tuned
from harness.forgetting.base import Items
from harness.forgetting.measure import Probing, fit

if TYPE_CHECKING:
    from torch import nn

    from harness.config import RunConfig


@dataclass
class Examination:
    """A run's tuned model as a plain one, and what it is asked."""

    record: dict[str, Any]
    config: RunConfig
    probing: Probing
    split: str
    folder: Path
    """The run's."""
    model: nn.Module | None = None

    @staticmethod
    def of(folder: Path, split: str, probes: bool) -> Examination:
        """Return what a run asks, read and tokenised; the model is not loaded yet.

        Raises :class:`RecordError` where the run is not done, and a :class:`HarnessError` where its base or its
        data cannot be had.
        """
        from harness.execution import session

        record = done_record(folder)
        config = config_of(record)
        # The base's numbers are beside the run, wherever the folder of runs has been moved to.
        config = replace(config, output_dir=str(folder.resolve().parent))
        prepared = session.prepare(config)
        here = runtime.resolve(config)
        probing = fit(config, prepared, here) if probes else Probing(config, prepared, here)
        return Examination(record, config, probing, split, folder)

    def measure_base(self) -> None:
        """Fill in what probes found of the untouched base, which is loaded only where no earlier run left that."""
        if self.probing.fitted:
            self.probing.measure_base(self._untouched)

    def _untouched(self) -> nn.Module:
        here = self.probing.runtime
        return load_untouched(self.config, self.probing.prepared, here).model.to(here.device)

    def load(self, state: Path | None = None) -> Weights:
        """Load the tuned model, or that of a kept checkpoint, and merge it, in float32."""
        model, _ = load_tuned(self.record, self.config, self.probing.prepared, self.folder, state)
        if self.config.method.quantization() is None:
            model = model.float()  # before merging: shorter types would round what is scaled
        self.model = self.config.method.merge(model).float().eval()
        return Weights(self.model)

    def ask(self) -> Items:
        """Return the outcomes of the task's split and of every probe, by the names ``items.parquet`` has for them."""
        assert self.model is not None
        prepared = self.probing.prepared
        questions = {self.split: prepared.questions[self.split]}
        answering = evaluator(self.config, self.probing.runtime)
        found: Items = dict(answering.answer(self.model, prepared.objective, questions, "intervention"))
        return found | self.probing.items(self.probing.measure(self.model))
