"""Does the top intruder carry the forgetting? Its curve against every control that removes as much, jointly.

Let d_c be the mean over the λ below 1 of L_intruder(λ) - L_c(λ), in which L is a probe's headline metric with the sign
that makes more of it more forgotten, and c a control of equal ‖removed‖ or the tuned model itself. All d_c of all
probes are one family, items drawn once for all, with simultaneous intervals (`analysis.effects.families`).

carries            every d_c lies below 0: less is left forgotten than by removing as much in any other way, or nothing
does not carry     some d_c lies above 0: a control takes back more, or taking the intruder out makes it worse
undecided          neither is shown
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.effects.estimates import Estimate, drawn_items, over_seeds, resampled
from analysis.effects.families import Contrasts, contrasts, family
from analysis.effects.variance import Array
from analysis.records.metrics import TOLERANCE, Statistic, mean, ratio
from analysis.spectra.interventions.vectors import EQUAL
from harness.forgetting.base import Items, Probe

INTRUDER, UNCHANGED = "intruder", "unchanged"
CARRIES, DOES_NOT, UNDECIDED = "carries", "does not carry", "undecided"
Found = Mapping[tuple[str, float], Items]
"""The answers of each curve at each λ."""


@dataclass(frozen=True)
class Against:
    """How much less is left forgotten with the intruder's curve than with another, the mean over λ."""

    curve: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What the curves show of one probe's headline metric."""

    label: str
    metric: str
    word: str
    """`CARRIES`, `DOES_NOT` or `UNDECIDED`."""
    against: tuple[Against, ...]

    def __str__(self) -> str:
        """Return the verdict in a line."""
        said = ", ".join(f"{one.curve} {one.difference:+.3g} [{one.low:+.3g}, {one.high:+.3g}]" for one in self.against)
        return f"{self.label} {self.metric}: the top intruder {self.word} the forgetting; against {said}".replace(
            f"{UNDECIDED} the forgetting", f"may carry the forgetting or not ({UNDECIDED})"
        )


def verdicts(probes: Mapping[str, Probe], base: Mapping[str, Items], found: Found) -> list[Verdict]:
    """Return a verdict for each probe whose headline is a mean or a ratio over items; none without a λ below 1.

    `base` has each probe's answers of the untouched model.
    """
    below = sorted({factor for curve, factor in found if curve == INTRUDER and factor < 1})
    known = readings(probes, base, found)
    if not below or not known:
        return []
    joint = family([one.contrasts(found, below) for one in known])
    low, high = joint.intervals()
    rows = np.stack([joint.values, low, high]).T.reshape(len(known), len(EQUAL) + 1, 3).tolist()
    return [_verdict(one, row) for one, row in zip(known, rows, strict=True)]


def _verdict(reading: Reading, rows: Sequence[Sequence[float]]) -> Verdict:
    against = tuple(Against(curve, *row) for curve, row in zip((*EQUAL, UNCHANGED), rows, strict=True))
    if all(one.high < 0 for one in against):
        word = CARRIES
    else:
        word = DOES_NOT if any(one.low > 0 for one in against) else UNDECIDED
    return Verdict(reading.label, reading.metric, word, against)


@dataclass(frozen=True)
class Reading:
    """How a probe's headline metric comes of its items."""

    label: str
    metric: str
    columns: tuple[str, ...]
    statistic: Statistic
    sign: float
    """1 where more of the metric is more forgotten, else -1."""
    series: str = ""
    """Which of the probe's series it is of; empty for all together."""

    def contrasts(self, found: Found, below: Sequence[float]) -> Contrasts:
        """Return the intruder's mean over λ less that of each control, and less the tuned model."""
        one = self.rows(found[UNCHANGED, 1.0])
        weights = drawn_items(len(one))
        curves = [self._mean(found, curve, below, weights) for curve in (INTRUDER, *EQUAL)]
        curves.append(self._estimate(one, weights))
        return contrasts(curves, [(0, at) for at in range(1, len(curves))], len(one))

    def rows(self, items: Items) -> Array:
        """Return what the statistic needs of each item, in one order for all models."""
        return _rows(items, f"{self.label}/{self.series}", self.columns)

    def _mean(self, found: Found, curve: str, below: Sequence[float], weights: Array) -> Estimate:
        parts = [self._estimate(self.rows(found[curve, factor]), weights) for factor in below]
        return Estimate(
            float(np.mean([one.value for one in parts])), np.mean([one.deviations for one in parts], axis=0)
        )

    def _estimate(self, rows: Array, weights: Array) -> Estimate:
        drawn = resampled(rows[None], self.statistic, weights)
        return over_seeds(self.sign * drawn.scores, self.sign * drawn.draws)


def readings(probes: Mapping[str, Probe], base: Mapping[str, Items], found: Found) -> list[Reading]:
    """Return how each probe's headline metric comes of its items, of those whose is a mean or a ratio over them."""
    read = (_read(label, probe, base[label], found) for label, probe in probes.items())
    return [one for one in read if one is not None]


def _read(label: str, probe: Probe, base: Items, found: Found) -> Reading | None:
    """Return how the headline comes of the items; None where it is neither Σ loss / Σ tokens nor a mean score.

    It may be of all the probe's series together or of one of them, as retrieval's MRR is of its ranks alone.
    """
    after = {name.removeprefix(f"forgetting/{label}/"): one for name, one in found[UNCHANGED, 1.0].items()}
    change = probe.compare(base, {name: after[name] for name in base}).get(str(probe.headline))
    if change is None or change.before is None:
        return None
    sign = -1.0 if change.after.higher_is_better else 1.0
    for series in ("", *sorted(base)):
        for columns, statistic in ((("loss", "tokens"), ratio), (("score",), mean)):
            reading = Reading(label, str(probe.headline), columns, statistic, sign, series)
            rows = reading.rows(found[UNCHANGED, 1.0])
            value = float(statistic(rows, np.ones((1, len(rows))))[0])
            if np.isclose(value, change.after.value, rtol=TOLERANCE, atol=TOLERANCE):
                return reading
    return None


def _rows(items: Items, place: str, columns: tuple[str, ...]) -> Array:
    prefix = f"forgetting/{place}"
    outcomes: list[Any] = [one for name in sorted(items) if name.startswith(prefix) for one in items[name]]
    return np.array([[getattr(one, column) for column in columns] for one in outcomes], dtype=float)
