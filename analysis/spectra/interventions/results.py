"""From the answers at each λ to curves: scores, what was forgotten, and both in per cent of what they were at λ = 1.

    % change of the test score = 100 (a_λ - a_1) / a_1
    % change of fine-tuning-induced forgetting = 100 (L_λ - L_1) / (L_1 - L_base)

(arXiv 2410.21228, figure 8; the second as this project reads it). L is any probe's metric: where a higher value is
better both differences change their sign and the share does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from analysis.spectra.interventions.examine import Examination
from harness.forgetting.base import Change, Items, mean, paired
from harness.tasks.base import Score

Row = dict[str, Any]
Z = 1.959964
"""The normal distribution's 97.5 % point."""


@dataclass(frozen=True)
class Percent:
    """A share in per cent with its 95 % interval, or why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined: str | None = None


def percent(part: Score, whole: Score, total: Score) -> Percent:
    """Return 100 part / whole with Fieller's interval; undefined where the interval of `whole` covers 0.

    Fieller (1954): the ρ for which part - ρ whole is not significant, z² (s_p² - 2 ρ s_pw + ρ² s_w²) ≥ (p - ρ w)².
    Standard errors are those of the three paired bootstrap intervals, the covariance follows from
    ``total = part + whole``: s_pw = (s_t² - s_p² - s_w²) / 2.
    """
    if whole.low <= 0 <= whole.high or not _finite(part, whole, total):
        told = f"{whole.value:+.3g} [{whole.low:+.3g}, {whole.high:+.3g}]"
        return Percent(None, undefined=f"what it is a share of may be zero: {told}")
    s_part, s_whole, s_total = (_standard_error(score) for score in (part, whole, total))
    limit = s_part * s_whole
    covariance = min(limit, max(-limit, (s_total**2 - s_part**2 - s_whole**2) / 2))
    a = whole.value**2 - (Z * s_whole) ** 2
    if a <= 0:
        return Percent(100 * part.value / whole.value, undefined="its interval is not bounded")
    b = part.value * whole.value - Z**2 * covariance
    root = math.sqrt(max(0.0, b**2 - a * (part.value**2 - (Z * s_part) ** 2)))
    return Percent(100 * part.value / whole.value, 100 * (b - root) / a, 100 * (b + root) / a)


def _finite(*scores: Score) -> bool:
    return all(math.isfinite(value) for score in scores for value in (score.value, score.low, score.high))


def _standard_error(score: Score) -> float:
    return (score.high - score.low) / (2 * Z)


def rows(examination: Examination, one: Items, found: Items) -> Iterator[Row]:
    """Yield each metric of the model at one λ, beside the untouched base's and the tuned model's at λ = 1."""
    yield from _task_rows(examination, one, found)
    for label, fitted in examination.probing.fitted.items():
        base = examination.probing.base[label].items
        first, now = _series(one, label), _series(found, label)
        learned, changed, whole = (fitted.probe.compare(*pair) for pair in ((base, first), (first, now), (base, now)))
        for metric, change in whole.items():
            row = _probe_row(learned[metric], changed[metric], change)
            yield {"of": label, "metric": metric, "headline": metric == fitted.probe.headline} | row


def _series(items: Items, label: str) -> Items:
    prefix = f"forgetting/{label}/"
    return {name.removeprefix(prefix): outcomes for name, outcomes in items.items() if name.startswith(prefix)}


def _task_rows(examination: Examination, one: Items, found: Items) -> Iterator[Row]:
    task, split = examination.config.task, examination.split
    before = examination.record["scores"]["before"][split]
    at_one, now = task.scores(one[split]), task.scores(found[split])
    means = paired([o.score for o in one[split]], [o.score for o in found[split]], mean, higher_is_better=True)
    for metric, score in now.items():
        share = Percent(None, undefined="the metric is no mean over items")
        delta = None
        if means.before and math.isclose(means.before.value, at_one[metric].value, rel_tol=1e-9):
            assert means.delta is not None
            share, delta = percent(means.delta, means.before, means.after), means.delta
        yield {"of": "task", "metric": metric, "headline": metric == task.metric} | _row(
            score, at_one[metric], before.get(metric, {}).get("value"), delta, share, "score"
        )


def _probe_row(learned: Change, changed: Change, whole: Change) -> Row:
    """Return a probe's metric; one that compares with the base itself, as a divergence does, has no share."""
    if learned.delta and changed.delta and whole.delta and whole.before:
        share = percent(changed.delta, learned.delta, whole.delta)
        return _row(whole.after, learned.after, whole.before.value, changed.delta, share, "forgetting")
    share = Percent(None, undefined="the metric compares with the base itself")
    return _row(whole.after, learned.after, None, None, share, "forgetting")


def _row(now: Score, at_one: Score, base: float | None, delta: Score | None, share: Percent, of: str) -> Row:
    low, high = (None, None) if delta is None else (delta.low, delta.high)
    return {
        "value": now.value,
        "low": now.low,
        "high": now.high,
        "items": now.n,
        "higher_is_better": now.higher_is_better,
        "base": base,
        "at_one": at_one.value,
        "delta": now.value - at_one.value,
        "delta_low": low,
        "delta_high": high,
        "percent": share.value,
        "percent_low": share.low,
        "percent_high": share.high,
        "percent_of": of,
        "undefined": share.undefined,
    }
