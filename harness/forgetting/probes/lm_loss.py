"""Language-model loss on general text: cross-entropy per token, perplexity ratio, bits per byte."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import ConfigError
from harness.forgetting.base import PROBES, Change, Items, Measured, Probe, only_after, paired, ratio
from harness.tasks.base import Outcome, Score

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.execution.session import Prepared
    from harness.forgetting.subject import Subject
    from harness.forgetting.texts import Material


class Objective(Enum):
    """What is predicted."""

    auto = "auto"
    """The next token by decoders, masked tokens by encoders."""
    next_token = "next_token"
    masked = "masked"


@PROBES.register("lm_loss")
@dataclass
class LanguageModelLoss(Probe):
    """CE = −1/N Σ log p(token), before and after; the perplexity ratio is exp(CE_after − CE_before).

    A decoder predicts each token from those before it. An encoder with its checkpoint's masked-language-model
    head over the tuned body predicts each token from all others, which sums to the pseudo-log-likelihood of
    Salazar et al. (2020, arXiv 1910.14659, equation 3).
    """

    version: ClassVar[int] = 1
    headline: ClassVar[str | None] = "loss"

    objective: Objective = Objective.auto

    def unsuitable(self, config: RunConfig, prepared: Prepared) -> str | None:
        """An encoder needs a masked-language-model head, and there must be text that the task does not train on."""
        from harness.forgetting.texts import nothing_to_read

        reason = mismatch(self.objective, prepared)
        return reason or nothing_to_read(config)

    def prepare(self, config: RunConfig, prepared: Prepared) -> Material:
        """Return the run's general text."""
        from harness.forgetting.texts import load

        return load(config, prepared, masked=prepared.kind == "encoder")

    def fingerprint(self, material: Material) -> str:
        """Return a hash of the tokens."""
        return material.fingerprint

    def notes(self, material: Material) -> dict[str, Any]:
        """Say what is predicted, and which texts the task trains on."""
        return {"objective": "masked" if material.masked else "next_token", "left_out": material.left_out}

    def texts(self, material: Material) -> dict[str, Material]:
        """Return the run's general text."""
        return {"text": material}

    def measure(self, subject: Subject, material: Material, base: Measured | None) -> Measured:
        """Add up the losses of each document."""
        reading = subject.readings["text"]
        series: Items = {origin: [] for origin in sorted({document.origin for document in material.owners})}
        losses, tokens = material.totals(reading.losses), material.counts()
        for document, loss, count in zip(material.owners, losses, tokens, strict=True):
            bits_per_byte = loss / math.log(2) / len(document.text.encode())
            series[document.origin].append(Outcome(document.id, "", "", bits_per_byte, loss, count))
        return Measured(series)

    def compare(self, before: Items, after: Items) -> dict[str, Change]:
        """Return the loss, its perplexity ratio and bits per byte, of all texts together and of each."""
        found: dict[str, Change] = {}
        whole = [("", list(chain.from_iterable(before.values())), list(chain.from_iterable(after.values())))]
        each = [(f"/{name}", before[name], after[name]) for name in before] if len(before) > 1 else []
        for name, first, second in [*whole, *each]:
            found[f"loss{name}"] = change = paired(nats(first), nats(second), ratio, higher_is_better=False)
            found[f"perplexity_ratio{name}"] = perplexity_ratio(change)
            found[f"bits_per_byte{name}"] = paired(bits(first), bits(second), ratio, higher_is_better=False)
        return found


def mismatch(objective: Objective, prepared: Prepared) -> str | None:
    """Return why a model of this kind cannot predict what is asked for.

    Raises :class:`ConfigError` where the objective was chosen and is the other kind's.
    """
    from harness.forgetting.heads import no_masked_head

    own = {"decoder": Objective.next_token, "encoder": Objective.masked}[prepared.kind]
    if objective not in (Objective.auto, own):
        key = "forgetting.probes.lm_loss.objective"
        article = {"decoder": "a decoder", "encoder": "an encoder"}[prepared.kind]
        raise ConfigError(key, objective.value, f"the model is {article}; it needs auto or {own.value}")
    return no_masked_head(prepared.files) if own is Objective.masked else None


def nats(outcomes: list[Outcome]) -> list[tuple[float, int]]:
    """Return (nats, tokens) of each document."""
    return [(outcome.loss, outcome.tokens) for outcome in outcomes]


def bits(outcomes: list[Outcome]) -> list[tuple[float, float]]:
    """Return (bits, bytes) of each document, whose bits per byte are its score."""
    return [(o.loss / math.log(2), o.loss / math.log(2) / o.score) for o in outcomes]


def perplexity_ratio(change: Change) -> Change:
    """Return exp(ΔCE), the tuned perplexity over the base's, with the interval of ΔCE carried along."""
    assert change.delta is not None
    value, low, high = (
        math.exp(min(nats, 700.0)) for nats in (change.delta.value, change.delta.low, change.delta.high)
    )
    return only_after(Score(value, low, high, change.delta.n, higher_is_better=False))
