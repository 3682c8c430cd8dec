"""Reading text with a model: what it predicts at each position, and how far that is from the base's prediction.

The base is read once a sweep. Its last hidden states are kept (d numbers a token: 7 MB for the 3,000 tokens of the
default on SmolLM2, where its logits would take 850 MB), and a tuned model's run turns them into the base's logits by
the untouched output layer alone: a fifth of a forward pass on SmolLM2, and no second model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from harness.errors import NotApplicable, first_line
from harness.forgetting.subject import last_hidden_states, plain
from harness.forgetting.texts import Material, Row
from harness.objectives.base import mask, pad

if TYPE_CHECKING:
    from harness.forgetting.subject import Subject
    from harness.storage.assets import Files

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


class OutputHead:
    """The output layers of a model as its files have them: logits from hidden states, without its body.

    The model's own forward runs with the body replaced by one that returns what it is given, so that scaling and
    capping of logits, which some architectures do, are in.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        self.body = Given()
        # Tied output layers keep their matrix; the rest of the body is freed.
        setattr(model, model.base_model_prefix, self.body)
        self.model: Any = model.to(device).eval()
        self.dtype = next(model.parameters()).dtype

    def __call__(self, states: Tensor) -> Tensor:
        """Return logits of shape (rows, positions, vocabulary) for states of shape (rows, positions, d)."""
        self.body.states = states.to(self.dtype)
        tokens = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
        logits: Tensor = self.model(input_ids=tokens).logits
        return logits.float()


class Given(nn.Module):
    """A body that returns the hidden states it was given."""

    states: Tensor

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """Return the states."""
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.states)  # type: ignore[arg-type]


class Predictor(Protocol):
    """How a kind of model predicts tokens."""

    def __call__(self, rows: Sequence[Row], states: bool) -> list[tuple[Tensor, Tensor | None]]:
        """Return pieces of (logits, hidden states) that together follow the rows' positions in order."""


class NextToken:
    """A decoder: the next token at the last positions of each row."""

    def __init__(self, model: nn.Module, padding: int) -> None:
        self.model, self.padding = model, padding

    def __call__(self, rows: Sequence[Row], states: bool) -> list[tuple[Tensor, Tensor | None]]:
        """Compute vocabulary logits from the batch's first scored position on."""
        longest = max(len(row.ids) for row in rows)
        keep = longest - min(row.first for row in rows)
        batch = inputs(rows, self.padding, self.model)
        with last_hidden_states(self.model) as kept:
            logits = self.model(**batch, logits_to_keep=keep, use_cache=False).logits[:, -keep:]
        hidden = kept[-1][:, -keep:] if states else None  # counted from the end: virtual tokens come first
        pieces = []
        for index, row in enumerate(rows):
            first = row.first - (longest - keep)
            part = slice(first, first + len(row.targets))
            pieces.append((logits[index, part], None if hidden is None else hidden[index, part]))
        return pieces


class MaskedToken:
    """An encoder with the masked-language-model head of its checkpoint over its tuned body: one token a row."""

    def __init__(self, model: nn.Module, head: OutputHead, padding: int) -> None:
        self.model, self.head, self.padding = model, head, padding

    def __call__(self, rows: Sequence[Row], states: bool) -> list[tuple[Tensor, Tensor | None]]:
        """Apply the head at the masked position of each row and nowhere else."""
        batch = inputs(rows, self.padding, self.model)
        length = batch["input_ids"].shape[1]
        with last_hidden_states(self.model) as kept:
            self.model(**batch)
        places = torch.tensor([row.first for row in rows], device=kept[-1].device)
        hidden = kept[-1][:, -length:][torch.arange(len(rows), device=places.device), places]
        return [(self.head(hidden[:, None])[:, 0], hidden if states else None)]


def inputs(rows: Sequence[Row], padding: int, model: nn.Module) -> dict[str, Tensor]:
    """Pad rows on the right and put them where the model is."""
    device = next(model.parameters()).device
    ids = [row.ids for row in rows]
    return {"input_ids": pad(ids, padding).to(device), "attention_mask": mask(ids).to(device)}


def predictor(subject: Subject, masked: bool) -> Predictor:
    """Return how the subject predicts tokens.

    Raises :class:`NotApplicable` where its checkpoint has no language-model head.
    """
    padding = int(subject.prepared.objective.tokenizer.pad_token_id)
    if not masked:
        return NextToken(subject.model, padding)
    return MaskedToken(subject.model, tuned_masked_head(subject), padding)


def tuned_masked_head(subject: Subject) -> OutputHead:
    """Return the checkpoint's head; where its output matrix is tied to the embeddings, to the subject's own."""
    model = masked_model(subject.prepared.files)
    own = plain(subject.model).get_input_embeddings().weight
    output: Any = model.get_output_embeddings()
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    head = OutputHead(model, subject.device)
    if tied and own.shape == output.weight.shape:
        output.weight = nn.Parameter(own.detach().to(output.weight.dtype), requires_grad=False)
    return head


def base_head(subject: Subject, masked: bool) -> OutputHead:
    """Return the untouched model's output layers, from its files."""
    model = masked_model(subject.prepared.files) if masked else subject.untouched()
    return OutputHead(model, subject.device)


_HEADLESS: dict[str, str | None] = {}


def no_masked_head(files: Files) -> str | None:
    """Return why a checkpoint cannot predict masked tokens, None where it can; found out once a process."""
    key = str(files.folder)
    if key not in _HEADLESS:
        try:
            masked_model(files)
            _HEADLESS[key] = None
        except NotApplicable as error:
            _HEADLESS[key] = str(error)
    return _HEADLESS[key]


def masked_model(files: Files) -> PreTrainedModel:
    """Load the checkpoint with its masked-language-model head.

    Raises :class:`NotApplicable` where it has none, or one with weights missing.
    """
    try:
        model, info = AutoModelForMaskedLM.from_pretrained(
            files.folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise NotApplicable(f"no masked-language-model head: {first_line(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise NotApplicable(f"the checkpoint has no masked-language-model head: it lacks {missing[0]}")
    return model  # type: ignore[no-any-return]


class Collector:
    """Fills a :class:`Reading` piece by piece, from pieces that come in the order of length."""

    def __init__(self, rows: Sequence[Row], base: Tensor | None, head: OutputHead | None) -> None:
        self.offsets: list[int] = torch.tensor([0, *(len(row.targets) for row in rows)]).cumsum(0).tolist()
        self.rows, self.base, self.head = rows, base, head
        total = self.offsets[-1]
        self.reading = Reading(torch.zeros(total, dtype=torch.float64))
        if base is not None:
            self.reading.divergence, self.reading.agreement = (torch.zeros(total, dtype=torch.float64) for _ in "ab")

    def take(self, part: Sequence[int], pieces: Sequence[tuple[Tensor, Tensor | None]]) -> None:
        """Take what was predicted for the rows of these indices."""
        places = torch.cat([torch.arange(self.offsets[index], self.offsets[index + 1]) for index in part])
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


def read(
    subject: Subject, rows: Sequence[Row], masked: bool, base: Tensor | None = None, keep_states: bool = False
) -> Reading:
    """Read rows with the subject; `base` holds the untouched model's states at the same positions."""
    predict = predictor(subject, masked)
    collector = Collector(rows, base, base_head(subject, masked) if base is not None else None)
    for part in batches(rows, TOKENS):
        collector.take(part, predict([rows[index] for index in part], keep_states))
    if keep_states:
        require_same_logits(subject, rows, masked, collector.reading)
    return collector.reading


def read_text(subject: Subject, material: Material) -> Reading:
    """Read a text with the subject once, however many probes ask; what they want of it was announced before."""
    key = material.fingerprint
    if key not in subject.readings:
        states = subject.wanted.get(key)
        keep = key in subject.wanted and states is None
        subject.readings[key] = read(subject, material.rows, material.masked, states, keep)
    return subject.readings[key]  # type: ignore[no-any-return]


def compare(base: Tensor, tuned: Tensor, normaliser: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(base ‖ tuned) and top-1 agreement at each position, of shape (positions,).

    Σ p (log p − log q) = Σ p (z_p − z_q) − log Z_p + log Z_q: one exponential a word instead of two.
    `normaliser` is log Z_q.
    """
    tuned = tuned.float()
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


def require_same_logits(subject: Subject, rows: Sequence[Row], masked: bool, reading: Reading) -> None:
    """Raise :class:`NotApplicable` where the states that were kept do not give the model's own predictions back."""
    assert reading.states is not None
    targets = torch.tensor(rows[0].targets, device=subject.device)
    logits = base_head(subject, masked)(reading.states[: len(targets)].to(subject.device)[None])[0]
    losses = logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]
    # 0.05 nats: in bfloat16 another shape of the batch moves a loss by some 0.01.
    if not torch.allclose(losses.double().cpu(), reading.losses[: len(targets)], rtol=0.01, atol=0.05):
        name = type(plain(subject.model)).__name__
        raise NotApplicable(f"the logits of {name} are not a function of its last hidden states alone")
