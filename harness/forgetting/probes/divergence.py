"""Divergence from the base: KL(base ‖ tuned) and top-1 agreement, on general text and on the task's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from harness.config import require_at_least
from harness.forgetting.base import PROBES, Change, Items, Measured, Probe, estimate, only_after, ratio
from harness.identity import digest
from harness.tasks.base import Item, Outcome

if TYPE_CHECKING:
    from torch import Tensor

    from harness.config import RunConfig
    from harness.execution.session import Prepared
    from harness.forgetting.reading import Reading
    from harness.forgetting.subject import Subject
    from harness.forgetting.texts import Material, Row


@dataclass
class Inputs:
    """What the two models are compared on; either part is None where there is none."""

    text: Material | None
    prompts: Material | None
    """Decoders: the task's prompts, compared at every position."""
    items: list[Item] = field(default_factory=list)
    """Encoders: the task's items, compared in the distribution over labels or choices."""


@PROBES.register("divergence")
@dataclass
class Divergence(Probe):
    """KL(π_base ‖ π_tuned) = Σ π_base log(π_base / π_tuned), mean per token, and the share of equal top choices.

    "RL's Razor" (arXiv 2509.04259) finds that the divergence on the new task's inputs tracks forgetting. On
    general text an encoder is compared in the masked tokens that `lm_loss` reads; without a masked-language-model
    head it is compared on the task's inputs alone, in its distribution over labels.
    """

    version: ClassVar[int] = 2
    reads_head: ClassVar[bool] = True
    compares_texts: ClassVar[bool] = True

    task_items: int = 48
    """Test items of the task, the first in hash order; 0 leaves the task's inputs out."""

    def __post_init__(self) -> None:
        require_at_least("forgetting.probes.divergence.task_items", self.task_items, 0)

    def unsuitable(self, config: RunConfig, prepared: Prepared) -> str | None:
        """There must be general text to read or a distribution on the task's inputs."""
        if self._reads_text(config, prepared) or (self.task_items and has_distribution(prepared)):
            return None
        return "the model has no language-model head, and the task no distribution over answers to compare"

    def _reads_text(self, config: RunConfig, prepared: Prepared) -> bool:
        from harness.forgetting.heads import no_masked_head
        from harness.forgetting.texts import nothing_to_read

        fits = prepared.kind == "decoder" or no_masked_head(prepared.files) is None
        return fits and nothing_to_read(config) is None

    def prepare(self, config: RunConfig, prepared: Prepared) -> Inputs:
        """Return general text and the task's inputs, tokenised."""
        from harness.forgetting.texts import load

        encoder = prepared.kind == "encoder"
        text = load(config, prepared, masked=encoder) if self._reads_text(config, prepared) else None
        items = prepared.splits.test[: self.task_items] if has_distribution(prepared) else []
        return Inputs(text, None, items) if encoder else Inputs(text, prompts(prepared, items))

    def fingerprint(self, material: Inputs) -> str:
        """Return a hash of the tokens and items."""
        parts = [part.fingerprint if part else None for part in (material.text, material.prompts)]
        return digest([*parts, [item.id for item in material.items]], 64)

    def notes(self, material: Inputs) -> dict[str, Any]:
        """Say which texts the task trains on."""
        return {"left_out": material.text.left_out if material.text else []}

    def texts(self, material: Inputs) -> dict[str, Material]:
        """Return general text and the task's prompts."""
        parts = {"text": material.text, "task": material.prompts}
        return {part: text for part, text in parts.items() if text is not None}

    def measure(self, subject: Subject, material: Inputs, base: Measured | None) -> Measured:
        """Add up the divergence of each document and prompt; of an encoder, compare its labels or keep the base's."""
        logits = label_logits(subject, material.items) if material.items else None
        if base is None:
            return Measured({}, {} if logits is None else {"task": logits})
        found: Items = {}
        for part, text in self.texts(material).items():
            found |= text_series(part, text, subject.readings[part])
        if logits is not None:
            found |= label_series(material.items, base.tensors["task"], logits)
        return Measured(found)

    def compare(self, before: Items, after: Items) -> dict[str, Change]:
        """Return the mean divergence per token and the share of equal top choices, by what was read."""
        found = {}
        for series, outcomes in after.items():
            rows = [(o.loss, o.tokens) for o in outcomes]
            higher = series.endswith("agreement")
            found[series] = only_after(estimate(rows, ratio, higher))
        return found


def has_distribution(prepared: Prepared) -> bool:
    """Return whether the model has a distribution on the task's inputs: not where it answers with a number."""
    return prepared.kind == "decoder" or bool(getattr(prepared.objective, "chooses", False))


def prompts(prepared: Prepared, items: Sequence[Item]) -> Material | None:
    """Return the prompts of a decoder's task, every position of which is compared."""
    from harness.forgetting.texts import Material, Row

    if not items:
        return None
    features = prepared.objective.features(items)
    rows: list[Row] = []
    for owner, made in enumerate(features):
        ids = list(made.get("prompt") or made["input_ids"])
        rows.append(Row(owner, ids, 0, [*ids[1:], ids[0]]))  # the last target is not used: no loss is taken here
    owners = list(items) if len(features) == len(items) else [f"block-{i}" for i in range(len(features))]
    return Material(owners, rows, masked=False)


def text_series(part: str, material: Material, reading: Reading) -> Items:
    """Return an outcome a document or prompt from what was read of it."""
    names = [getattr(owner, "id", str(owner)) for owner in material.owners]
    counts = material.counts()
    sums = {"kl": material.totals(reading.divergence), "agreement": material.totals(reading.agreement)}
    return {f"{part}/{name}": outcomes(names, totals, counts) for name, totals in sums.items()}


def label_series(items: Sequence[Item], base: Tensor, logits: Tensor) -> Items:
    """Return an outcome an item from both models' distributions over labels or choices."""
    from harness.forgetting.reading import compare

    divergence, agreement = compare(base, logits, logits.logsumexp(-1))
    names, counts = [item.id for item in items], [1] * len(items)
    return {
        "task/kl": outcomes(names, divergence.tolist(), counts),
        "task/agreement": outcomes(names, agreement.double().tolist(), counts),
    }


def outcomes(names: Sequence[str], totals: Sequence[float], counts: Sequence[int]) -> list[Outcome]:
    """Return sums over positions as losses, and their means as scores."""
    return [
        Outcome(name, "", "", total / count, total, count)
        for name, total, count in zip(names, totals, counts, strict=True)
    ]


def label_logits(subject: Subject, items: Sequence[Item]) -> Tensor:
    """Return logits of shape (items, labels or most choices), in the items' order."""
    import torch

    from harness.distributed.sharing import joined, share
    from harness.objectives.base import by_length, to_device

    objective: Any = subject.prepared.objective
    features = objective.features(items)
    rows: dict[int, Tensor] = {}
    for part in share(by_length(features, lambda made: int(made["length"]), subject.batch_size)):
        batch = to_device(objective.collate([features[index] for index in part]), subject.model)
        found = objective.choice_logits(subject.model, batch).double().cpu()
        rows.update(zip(part, found, strict=True))
    rows = joined(rows)
    width = max(len(row) for row in rows.values())
    lowest = -1e9  # a choice that an item does not have: minus infinity would make 0 · ∞ of it
    padded = torch.full((len(items), width), lowest, dtype=torch.float64)
    for index, row in rows.items():
        padded[index, : len(row)] = row.clamp_min(lowest)
    return padded
