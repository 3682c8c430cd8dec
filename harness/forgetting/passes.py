"""One pass over each text, however many probes of a run read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from harness.forgetting.base import Measured, Probe
from harness.forgetting.heads import OutputHead
from harness.forgetting.reading import Reading, read, require_same_logits
from harness.forgetting.subject import Subject
from harness.forgetting.texts import Material


class Passes:
    """The passes over texts with one model as it is now: made when first asked for, and then shared.

    Every probe is added before the first pass, so that a text which one probe compares is read with that comparison.
    """

    def __init__(self, subject: Subject, head: Callable[[], OutputHead]) -> None:
        self.subject, self.head = subject, head
        self.compared: dict[str, Tensor | None] = {}
        """Texts to compare, by fingerprint, with the base's hidden states; None where this is the base."""
        self.read: dict[str, Reading] = {}
        """Texts that were read, by fingerprint."""

    def add(self, probe: Probe, material: Any, base: Measured | None) -> None:
        """Plan what a probe reads; `base` is what it found of the untouched model, None where this one is that."""
        if probe.compares_texts:
            for name, text in probe.texts(material).items():
                self.compared[text.fingerprint] = None if base is None else base.tensors[name]

    def readings(self, probe: Probe, material: Any) -> dict[str, Reading]:
        """Return the probe's texts, read, by its own names of them."""
        return {name: self._read(text) for name, text in probe.texts(material).items()}

    def states(self, probe: Probe, material: Any) -> dict[str, Tensor]:
        """Return the base's hidden states on the texts that the probe compares, to be kept with what it measured.

        Raises :class:`NotApplicable` where the model's logits cannot be computed from them.
        """
        found = {}
        for name, text in probe.texts(material).items() if probe.compares_texts else ():
            reading = self._read(text)
            require_same_logits(self.subject, text, self.head(), reading)
            assert reading.states is not None
            found[name] = reading.states
        return found

    def _read(self, text: Material) -> Reading:
        key = text.fingerprint
        if key not in self.read:
            base = self.compared.get(key)
            keep_states = key in self.compared and base is None
            head = self.head() if text.masked or base is not None else None
            self.read[key] = read(self.subject, text, head, base, keep_states)
        return self.read[key]
