"""Decoders that choose: the answer to which the model gives the highest likelihood after the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from harness.distributed.sharing import joined, share
from harness.objectives.base import (
    IGNORED,
    OBJECTIVES,
    Advance,
    Batch,
    Features,
    Objective,
    TaskT,
    by_length,
    mask,
    pad,
    to_device,
)
from harness.objectives.fused import output_layer, states, summed_cross_entropy
from harness.tasks.base import Item, Outcome
from harness.tasks.contracts import ChoiceTask


class AnswerObjective(Objective[TaskT]):
    """Trains a decoder on the tokens of the answer alone.

    The vocabulary logits are computed from the first answer token of the batch on and nowhere before:
    for a question of 18 tokens and an answer of one, the output matrix (a fifth of SmolLM2's work) is
    applied to a few positions instead of all.
    """

    def continuation(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Tokenise prompt and answer together and cut between them, as lm-evaluation-harness does.

        Blanks at the prompt's end go to the answer: tokenisers join a blank to the word after it.
        """
        kept = prompt.rstrip()
        answer = prompt[len(kept) :] + answer
        whole = list(self.tokenizer(kept + answer).input_ids)
        start = len(self.tokenizer(kept).input_ids)
        if start == 0:  # nothing to predict the first token from
            return [self._first_token()], whole
        return whole[:start], whole[start:]

    def _first_token(self) -> int:
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return int(end if begin is None else begin)

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad on the right; ``keep`` counts the last positions whose logits are needed.

        ``answers`` are the places of the answers' tokens among the labels of those positions but the last, flattened.
        """
        rows = [f["prompt"] + f["answer"] for f in features]
        labels = pad([[IGNORED] * len(f["prompt"]) + f["answer"] for f in features], IGNORED)
        first = min(len(f["prompt"]) for f in features)
        return {
            "input_ids": pad(rows, self.tokenizer.pad_token_id),
            "attention_mask": mask(rows),
            "labels": labels,
            "keep": labels.shape[1] - first + 1,
            "answers": torch.tensor([i for i, label in enumerate(labels[:, first:].flatten().tolist()) if label >= 0]),
        }

    def longest(self) -> Features:
        """Return the shortest prompt and the longest answer: of all items of this length it has the most logits."""
        length = self.task.max_length
        return {"prompt": [0], "answer": [0] * (length - 1), "length": length}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the summed negative log-likelihood of the answers' tokens."""
        logits = last_logits(model, batch, batch["keep"])
        targets = batch["labels"][:, -(batch["keep"] - 1) :]
        return F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def training_loss(self, model: nn.Module, batch: Batch, fused: bool) -> Tensor:
        """Return the same from the states of the answers' tokens alone, where the model allows.

        A product for each row of a batch, of a few positions, runs at a fifteenth of the rate of a flat one.
        """
        layer = output_layer(model) if fused else None
        keep = batch["keep"]
        hidden = states(lambda: kept_logits(model, batch, keep), layer) if layer is not None else None
        if layer is None or hidden is None:
            return self.loss(model, batch)
        answers = batch["answers"].to(hidden.device)
        read = hidden[:, -keep:-1].flatten(0, 1)[answers]
        targets = batch["labels"][:, 1 - keep :].flatten()[answers]
        return answer_cross_entropy(layer, read, targets)


def last_logits(model: nn.Module, batch: Batch, keep: int) -> Tensor:
    """Return logits of the last `keep` positions, of shape (rows, keep, vocabulary).

    Counted from the end, positions are the same whether or not a method puts virtual tokens in front.
    """
    return kept_logits(model, batch, keep)[:, -keep:]


def kept_logits(model: nn.Module, batch: Batch, keep: int) -> Tensor:
    """Return the logits that the model gives when asked for the last `keep` positions; some models give all."""
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        logits_to_keep=keep,
        use_cache=False,
    )
    logits: Tensor = output.logits
    return logits


def answer_cross_entropy(layer: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the summed loss of flat states, without logits where there are more positions than the states are wide.

    Below that, logits are no larger than the copy of the weights that doing without them takes.
    """
    if len(hidden) > hidden.shape[-1]:
        return summed_cross_entropy(hidden, layer.weight, targets, IGNORED)
    return F.cross_entropy(layer(hidden).float(), targets, reduction="sum")


@dataclass
class Row:
    """One text to run, and the answers whose tokens are read off its end."""

    prompt: list[int]
    shared: list[int]
    """The answer's tokens but the last; empty for answers of one token, which then share a row."""
    answers: list[tuple[int, int, list[int]]]
    """(item, choice, the answer's tokens)."""

    @property
    def ids(self) -> list[int]:
        """Return the tokens to run."""
        return self.prompt + self.shared


@dataclass
class Questions:
    """Tokenised items with their choices."""

    items: list[Item]
    rows: list[Row]


@OBJECTIVES.register("likelihood")
class Likelihood(AnswerObjective[ChoiceTask]):
    """Trains on the right answer; answers by the highest log p(answer) / weight, the weight being the task's.

    Weights of 1 are the ``acc`` of lm-evaluation-harness, lengths in characters its ``acc_norm``.
    """

    contract: ClassVar[type] = ChoiceTask

    def __init__(self, task: ChoiceTask, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(task, tokenizer)
        self._lengths: dict[str, int] = {}

    def features(self, items: Sequence[Item]) -> list[Features]:
        """Tokenise each prompt with its right answer."""
        return [self._encode(item) for item in items]

    def _encode(self, item: Item) -> Features:
        prompt, answer = self.continuation(self._prompt(item), self.task.answers(item)[self.task.gold(item)].text)
        return {"prompt": prompt, "answer": answer, "length": len(prompt) + len(answer)}

    def _prompt(self, item: Item) -> str:
        """Return the prompt with room for the longest answer, so that it is the same before every answer."""
        longest = max(self._length(answer.text) for answer in self.task.answers(item))
        return self.prompt(item, max(self.task.max_length - longest, 1))

    def _length(self, answer: str) -> int:
        if answer not in self._lengths:
            self._lengths[answer] = len(self.tokenizer(answer).input_ids)
        return self._lengths[answer]

    def questions(self, items: Sequence[Item]) -> Questions:
        """Tokenise every choice; those of one token share the run of their prompt."""
        rows: dict[tuple[int, ...], Row] = {}
        for number, item in enumerate(items):
            text = self._prompt(item)
            for choice, answer in enumerate(self.task.answers(item)):
                prompt, ids = self.continuation(text, answer.text)
                key = (number, len(prompt), *prompt, *ids[:-1])
                row = rows.setdefault(key, Row(prompt, ids[:-1], []))
                row.answers.append((number, choice, ids))
        return Questions(list(items), list(rows.values()))

    def answer(self, model: nn.Module, questions: Questions, batch_size: int, advance: Advance) -> list[Outcome]:
        """Score all choices of all items and take each item's most likely."""
        scores: list[dict[int, float]] = [{} for _ in questions.items]
        lengths: list[dict[int, int]] = [{} for _ in questions.items]
        batches = list(by_length(questions.rows, lambda row: len(row.ids), batch_size))
        found: dict[int, list[float]] = {}
        for batch in share(batches):
            found[batch[0]] = self._score(model, [questions.rows[index] for index in batch])
            advance(len(batch))
        found = joined(found)
        for batch in batches:
            answers = [answer for index in batch for answer in questions.rows[index].answers]
            for (number, choice, ids), value in zip(answers, found[batch[0]], strict=True):
                scores[number][choice], lengths[number][choice] = value, len(ids)
        return [self._outcome(item, scores[n], lengths[n]) for n, item in enumerate(questions.items)]

    def _score(self, model: nn.Module, rows: list[Row]) -> list[float]:
        """Return log p of each answer of each row, summed over its tokens.

        All tokens of the batch are looked up at once and sent to the CPU together; a lookup for each answer
        would wait for the GPU each time.
        """
        ids = [row.ids for row in rows]
        longest = max(map(len, ids))
        keep = longest - min(len(row.prompt) for row in rows) + 1
        batch = to_device({"input_ids": pad(ids, self.tokenizer.pad_token_id), "attention_mask": mask(ids)}, model)
        logits = last_logits(model, batch, keep).float()
        index, position, token = torch.tensor(_lookups(rows, longest - keep), device=logits.device).T
        log_p = (logits[index, position, token] - logits.logsumexp(-1)[index, position]).cpu()
        lengths = [len(answer) for row in rows for _, _, answer in row.answers]
        values: list[float] = torch.stack([one.sum() for one in log_p.split(lengths)]).tolist()
        return values

    def _outcome(self, item: Item, scores: dict[int, float], lengths: dict[int, int]) -> Outcome:
        answers, gold = self.task.answers(item), self.task.gold(item)
        best = max(scores, key=lambda choice: scores[choice] / answers[choice].weight)
        right = float(best == gold)
        return Outcome(item.id, answers[best].name, answers[gold].name, right, -scores[gold], lengths[gold])


def _lookups(rows: Sequence[Row], skipped: int) -> list[tuple[int, int, int]]:
    """Return (row, position, token) of every answer's tokens, positions counted after the `skipped` first."""
    return [
        (index, len(row.prompt) - 1 - skipped + offset, token)
        for index, row in enumerate(rows)
        for _, _, answer in row.answers
        for offset, token in enumerate(answer)
    ]
