"""lm-eval's own Hugging Face model over one that is already in memory, with fewer logits and nothing changed."""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn

from harness.distributed.sharing import joined, share

Request = tuple[tuple[str, str], list[int], list[int]]
"""((context, continuation), context tokens, continuation tokens)."""


class InMemory(HFLM):  # type: ignore[misc]
    """HFLM, which computes vocabulary logits at the continuation's positions alone.

    Scoring is lm-eval's own code: it counts positions from the end of what the model returns, as it must for the
    virtual tokens of prompt tuning, and so takes logits of the last positions as they are. For SmolLM2 the output
    layer is a fifth of the work, and a softmax over 49,152 words at every position of the context another tenth.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, batch_size: int) -> None:
        with _nothing_tied_anew(model):
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")  # type: ignore[arg-type]
        self._keep: int | None = None

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        if self._keep is None:
            return super()._model_call(inps, attn_mask, labels)  # type: ignore[no-any-return]
        output = self.model(input_ids=inps, logits_to_keep=self._keep, use_cache=False)
        return output.logits[:, -self._keep :]  # type: ignore[no-any-return]

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Score requests in batches of our own, each with the number of positions that it needs logits of."""
        found: dict[int, tuple[float, bool]] = {}
        for part in share(self._batches(requests)):
            batch = [requests[index] for index in part]
            lengths = [len(context) + len(answer) - 1 for _, context, answer in batch]
            fits = max(lengths) <= self.max_length  # a longer one is cut by lm-eval, from the left
            first = min(length - len(answer) for length, (_, _, answer) in zip(lengths, batch, strict=True))
            self._keep = max(lengths) - first if fits else None
            scores = super()._loglikelihood_tokens(batch, disable_tqdm=True, override_bs=len(batch))
            found.update(zip(part, scores, strict=True))
        self._keep = None
        found = joined(found)
        return [found[index] for index in range(len(requests))]

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Yield indices of requests in batches of similar length; those that share all inputs stay together.

        lm-eval runs requests with the same context and the same answer but its last token once.
        """
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (_, context, answer) in enumerate(requests):
            groups[tuple(context + answer[:-1])].append(index)
        order = sorted(groups, key=lambda ids: (-len(ids), ids))
        for start in range(0, len(order), int(self.batch_size)):
            yield [index for ids in order[start : start + int(self.batch_size)] for index in groups[ids]]


@contextmanager
def _nothing_tied_anew(model: nn.Module) -> Iterator[None]:
    """Keep HFLM from tying weights again, which would undo a trained copy of an output layer."""
    model.tie_weights = lambda *_, **__: None  # type: ignore[assignment]
    try:
        yield
    finally:
        del model.tie_weights


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log, bars and prints of lm-eval and of the hub's client, which warns of each of its retries."""
    logs = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
