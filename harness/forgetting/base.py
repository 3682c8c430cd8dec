"""What a probe must say of itself, the registry of all probes, and how what was measured is compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.identity import digest
from harness.registry import Registry
from harness.tasks.base import Outcome, Score, accuracy

if TYPE_CHECKING:
    from torch import Tensor

    from harness.config import RunConfig
    from harness.execution.session import Prepared
    from harness.forgetting.subject import Subject
    from harness.forgetting.texts import Material

PROBES: Registry[Probe] = Registry("probe")
Statistic = Callable[[Any], Any]
"""From rows of shape (…, items, columns) to numbers of shape (…)."""
RESAMPLES = 1000
Items = dict[str, list[Outcome]]
"""Series of per-item outcomes by name; both of a pair of models have the same items in the same order."""


@dataclass(frozen=True)
class Change:
    """A metric of the untouched and of the tuned model, and the paired difference, each with its 95 % interval.

    No direction is assumed: a tuned model may gain on a probe.
    """

    before: Score | None
    """None where the metric is a comparison itself, as a divergence is."""
    after: Score
    delta: Score | None
    """after − before, resampled over the items that both answered."""


@dataclass
class Measured:
    """What a probe found of one model."""

    items: Items
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """What the tuned model is compared with besides, such as logits over labels; kept for the base only."""


@dataclass
class Probe(ABC):
    """A measurement of a model, taken of the untouched base once and of every tuned one.

    A subclass registered with ``@PROBES.register("name")`` is a choice of ``probe@forgetting.probes.<label>=``.
    It must define `prepare`, `measure` and `compare`; the other methods are for probes that read text or files, or do
    not fit every model. Modules of this package import torch, transformers and lm-eval inside functions only, so
    configuration stays instant. What `measure` returns may depend on the model alone: the caller restores the
    model's mode and every random state afterwards.
    """

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    """Raised when the same model would give other numbers; numbers of two versions are never compared."""
    headline: ClassVar[str | None] = None
    """The metric that the result table shows."""
    reads_head: ClassVar[bool] = False
    """Whether an encoder's new head, which depends on the run's seed, has a part in the numbers."""
    compares_texts: ClassVar[bool] = False
    """Whether the readings of its `texts` must say how far the tuned model is from the base at each position."""

    def files(self) -> dict[str, Path]:
        """Return the local files that the numbers depend on, by the setting that names each: ``source.path``.

        A file that is reached from there has its own name after a slash: ``tasks.0/utils.py``. In a run's identity
        their contents stand in the place of these settings.
        """
        return {}

    def unsuitable(self, config: RunConfig, prepared: Prepared) -> str | None:
        """Return why the probe cannot be taken of this model and task, None where it can."""
        return None

    @abstractmethod
    def prepare(self, config: RunConfig, prepared: Prepared) -> Any:
        """Return what will be measured, tokenised: once for both models.

        Raises a :class:`HarnessError` in one line where it cannot be had.
        """

    def fingerprint(self, material: Any) -> str:
        """Return a hash of what `prepare` returned: with the settings and the version, it identifies the numbers."""
        return digest(material, 64)

    def texts(self, material: Any) -> dict[str, Material]:
        """Return the texts to be read for `measure`, by names of the probe's own.

        It finds them read in ``subject.readings``, under the same names. A text that several probes name is read
        once for all of them.
        """
        return {}

    def notes(self, material: Any) -> dict[str, Any]:
        """Return what a reader of the record must know besides, such as texts that were left out."""
        return {}

    @abstractmethod
    def measure(self, subject: Subject, material: Any, base: Measured | None) -> Measured:
        """Measure a model; `base` is what was found of the untouched one, None where that one is measured.

        Raises :class:`NotApplicable` where the untouched model turns out not to have what the probe measures.
        """

    @abstractmethod
    def compare(self, before: Items, after: Items) -> dict[str, Change]:
        """Return each metric from the outcomes of the untouched and the tuned model."""


def paired(before: Any, after: Any, statistic: Statistic, higher_is_better: bool) -> Change:
    """Return a statistic of both models and its difference; the difference resamples whole pairs of outcomes."""
    import numpy as np

    first, second = (np.asarray(values, dtype=float).reshape(len(values), -1) for values in (before, after))
    width = first.shape[1]
    both = np.concatenate([first, second], axis=1)
    return Change(
        estimate(first, statistic, higher_is_better),
        estimate(second, statistic, higher_is_better),
        estimate(both, lambda r: statistic(r[..., width:]) - statistic(r[..., :width]), higher_is_better),
    )


def estimate(rows: Any, statistic: Statistic, higher_is_better: bool = True) -> Score:
    """Return a statistic with its seeded 95 % percentile bootstrap interval, as ``harness.tasks.base.bootstrap``.

    Resamples are taken many at once: a table of 20 metrics over 32 items takes 40 ms instead of 0.6 s.
    """
    import numpy as np

    table = np.asarray(rows, dtype=float).reshape(len(rows), -1)
    rng = np.random.default_rng(0)
    at_once = max(1, 10**6 // table.size)
    drawn = [
        rng.integers(0, len(table), (min(at_once, RESAMPLES - done), len(table)))
        for done in range(0, RESAMPLES, at_once)
    ]
    found = np.concatenate([np.atleast_1d(statistic(table[indices])) for indices in drawn])
    known = found[~np.isnan(found)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return Score(float(statistic(table)), float(low), float(high), len(table), higher_is_better)


def mean(rows: Any) -> Any:
    """Return the mean of rows of one column, of shape (…, items, 1)."""
    return rows[..., 0].mean(-1)


def ratio(rows: Any) -> Any:
    """Return Σ numerators / Σ denominators of rows of shape (…, items, 2)."""
    return rows[..., 0].sum(-1) / rows[..., 1].sum(-1)


def shares(before: Sequence[Outcome], after: Sequence[Outcome]) -> Change:
    """Return the shares of right answers with Wilson's intervals, and their paired difference."""
    change = paired([o.score for o in before], [o.score for o in after], mean, higher_is_better=True)
    if {outcome.score for outcome in [*before, *after]} <= {0.0, 1.0}:
        return Change(accuracy(before), accuracy(after), change.delta)
    return change


def only_after(score: Score) -> Change:
    """Return a metric that is a comparison with the base itself."""
    return Change(None, score, None)
