"""Reading text with a model: what it predicts at each position, and how far that is from the base's prediction.

The base is read once a sweep. Its last hidden states are kept (d numbers a token: 7 MB for the 3,000 tokens of the
default on SmolLM2, where its logits would take 850 MB), and a tuned model's run turns them into the base's logits by
the untouched output layer alone: a fifth of a forward pass on SmolLM2, and no second model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.distributed import group
from harness.distributed.sharing import share
from harness.errors import NotApplicable
from harness.forgetting.heads import OutputHead
from harness.forgetting.predictors import predictor
from harness.forgetting.subject import Subject, plain
from harness.forgetting.texts import Material, Row

TOKENS = 2048
"""Tokens of a batch with their padding: 400 MB of logits on SmolLM2, whose vocabulary has 49,152 words."""
AT_ONCE = 256
"""Positions of which the base's logits are computed at once: each time its output matrix is read, 113 MB on SmolLM2."""
CHUNK = 16
"""Positions at which probabilities are computed at once: 3 MB of logits, which stay in the processor's cache."""


@dataclass
class Reading:
    """What a model made of rows; the positions of all rows one after the other, of shape (positions,)."""

    losses: Tensor
    """−log p of each target, in nats."""
    divergence: Tensor | None = None
    """KL(base ‖ this model) = Σ p_base (log p_base − log p), in nats; None where no base was given."""
    agreement: Tensor | None = None
    """1 where both models find the same token most likely."""
    states: Tensor | None = None
    """Last hidden states, of shape (positions, d), where they were asked for."""


def read(
    subject: Subject,
    material: Material,
    head: OutputHead | None,
    base: Tensor | None = None,
    keep_states: bool = False,
) -> Reading:
    """Read a text with the subject once; `base` holds the untouched model's states at the same positions.

    `head` is the untouched model's; masked tokens and a comparison with the base need it.
    """
    rows = material.rows
    with nullcontext() if head is None else head.on(subject.device):
        predict = predictor(subject, material.masked, head)
        collector = Collector(rows, base, head)
        for part in share(batches(rows, TOKENS)):
            collector.take(part, predict([rows[index] for index in part], keep_states))
    return collector.of_all()


class Collector:
    """Fills a :class:`Reading` piece by piece, from pieces that come in the order of length."""

    def __init__(self, rows: Sequence[Row], base: Tensor | None, head: OutputHead | None) -> None:
        self.offsets: list[int] = torch.tensor([0, *(len(row.targets) for row in rows)]).cumsum(0).tolist()
        self.rows, self.base, self.head = rows, base, head
        total = self.offsets[-1]
        self.taken: list[Tensor] = []
        """Positions of the pieces that this process took."""
        self.reading = Reading(torch.zeros(total, dtype=torch.float64))
        if base is not None:
            self.reading.divergence, self.reading.agreement = (torch.zeros(total, dtype=torch.float64) for _ in "ab")

    def take(self, part: Sequence[int], pieces: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """Take what was predicted for the rows of these indices."""
        places = torch.cat([torch.arange(self.offsets[index], self.offsets[index + 1]) for index in part])
        self.taken.append(places)
        targets = torch.tensor([token for index in part for token in self.rows[index].targets])
        start = 0
        for logits, hidden in joined(pieces):
            here = slice(start, start + len(logits))
            normalisers = self._score(places[here], logits, targets[here].to(logits.device))
            for begin in range(0, len(logits), AT_ONCE) if self.base is not None else ():
                part_of = slice(begin, begin + AT_ONCE)
                self._compare(places[here][part_of], logits[part_of], normalisers[part_of])
            if hidden is not None:
                self._keep(places[here], hidden.cpu())
            start += len(logits)

    def of_all(self) -> Reading:
        """Return the reading with what the other processes took."""
        if group.size() > 1:
            places = torch.cat(self.taken)
            mine = {name: held[places] for name, held in vars(self.reading).items() if held is not None}
            for where, found in group.gathered((places, mine)):
                for name, values in found.items():
                    getattr(self.reading, name)[where] = values
        return self.reading

    def _score(self, places: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Take the losses; return the logarithms of the normalisers."""
        normalisers = torch.cat([chunk.float().logsumexp(-1) for chunk in logits.split(CHUNK)])
        losses = normalisers - logits.gather(1, targets[:, None])[:, 0].float()
        self.reading.losses[places] = losses.double().cpu()
        return normalisers

    def _compare(self, places: Tensor, logits: Tensor, normalisers: Tensor) -> None:
        reading = self.reading
        assert self.base is not None and self.head is not None
        assert reading.divergence is not None and reading.agreement is not None
        base = self.head(self.base[places].to(logits.device)[None])[0]
        pieces = zip(base.split(CHUNK), logits.split(CHUNK), normalisers.split(CHUNK), strict=True)
        divergence, agreement = zip(*(compare(*piece) for piece in pieces), strict=True)
        reading.divergence[places] = torch.cat(divergence).double().cpu()
        reading.agreement[places] = torch.cat(agreement).double().cpu()

    def _keep(self, places: Tensor, hidden: Tensor) -> None:
        if self.reading.states is None:
            self.reading.states = torch.zeros(self.offsets[-1], hidden.shape[1], dtype=hidden.dtype)
        self.reading.states[places] = hidden


def joined(pieces: Sequence[tuple[Tensor, Tensor | None]]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield short pieces as one: for each, the base's output matrix would be read for a few positions."""
    waiting: list[tuple[Tensor, Tensor | None]] = []
    for number, piece in enumerate(pieces, 1):
        waiting.append(piece)
        if number == len(pieces) or sum(len(logits) for logits, _ in waiting) >= AT_ONCE // 2:
            logits, hidden = zip(*waiting, strict=True)
            kept = [states for states in hidden if states is not None]
            yield (torch.cat(logits), torch.cat(kept) if kept else None) if len(waiting) > 1 else piece
            waiting = []


def compare(base: Tensor, tuned: Tensor, normaliser: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(base ‖ tuned) and top-1 agreement at each position, of shape (positions,).

    Σ p (log p − log q) = Σ p (z_p − z_q) − log Z_p + log Z_q: one exponential a word instead of two.
    `normaliser` is log Z_q.
    """
    # einsum is a product of matrices, which autocast would round to 8 bits: ten times the divergence itself.
    with torch.autocast(base.device.type, enabled=False):
        return _compare(base.float(), tuned.float(), normaliser.float())


def _compare(base: Tensor, tuned: Tensor, normaliser: Tensor) -> tuple[Tensor, Tensor]:
    log_z = base.logsumexp(-1)
    p = (base - log_z[:, None]).exp_()
    kl = torch.einsum("nv,nv->n", p, base - tuned) - log_z + normaliser
    # Two equal distributions come out some 1e-7 off zero, on either side of it.
    return kl.clamp_min(0.0), base.argmax(-1) == tuned.argmax(-1)


def batches(rows: Sequence[Row], tokens: int) -> Iterator[list[int]]:
    """Yield indices of rows in batches of at most so many tokens with padding, the longest rows first."""
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index].ids), index))
    while order:
        size = max(tokens // len(rows[order[0]].ids), 1)
        yield order[:size]
        order = order[size:]


def require_same_logits(subject: Subject, material: Material, head: OutputHead, reading: Reading) -> None:
    """Raise :class:`NotApplicable` where the states that were kept do not give the model's own predictions back."""
    assert reading.states is not None
    targets = torch.tensor(material.rows[0].targets, device=subject.device)
    with head.on(subject.device):
        logits = head(reading.states[: len(targets)].to(subject.device)[None])[0]
    losses = logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]
    # 0.05 nats: in bfloat16 another shape of the batch moves a loss by some 0.01.
    if not torch.allclose(losses.double().cpu(), reading.losses[: len(targets)], rtol=0.01, atol=0.05):
        name = type(plain(subject.model)).__name__
        raise NotApplicable(f"the logits of {name} are not a function of its last hidden states alone")
