"""Semantic similarity on decoders: the expected value over number words, and numbers that are written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
from scipy import stats
from transformers import AutoTokenizer

from harness import runtime
from harness.errors import ConfigError, NotApplicable
from harness.execution import session
from harness.execution.loading import load
from harness.identity import task_identity
from harness.objectives.number_words import two_hot
from harness.storage.outcomes import read_items
from harness.storage.record import Status
from harness.tasks.regression import NumberFrom, Regression
from harness.tasks.source import Source, Sources

pytestmark = pytest.mark.usefixtures("quick")
SCALE = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
WORDS = {number: f" {number}" for number in range(6)}
FIELDS: dict[str, Any] = {"data": Sources(all=Source(path=__file__)), "columns": {"text": "t", "label": "l"}}


def pairs(folder: Path, count: int = 400) -> list[str]:
    """Write pairs with the hub's columns, as alike as their last words; return the overrides that choose them."""
    rng = np.random.default_rng(0)
    texts = [text for text, _ in small_runs.sentences()]
    chosen = {tuple(sorted(rng.choice(len(texts), 2))) for _ in range(2 * count)}
    rows = []
    for number, (one, other) in enumerate(sorted(chosen)[:count]):
        first, second = texts[one].split(), texts[other].split()
        alike = (first[-1] in small_runs.GOOD) == (second[-1] in small_runs.GOOD)
        label = float(np.float32((2.6 if alike else 0.4) + 2.4 * (first[1] == second[1])))
        rows.append({"sentence1": texts[one], "sentence2": texts[other], "label": label, "idx": number})
    for name, part in (("train", rows[: count * 4 // 5]), ("test", rows[count * 4 // 5 :])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    paths = [f"task.data.{name}.path={folder / name}.jsonl" for name in ("train", "test")]
    return ["task=stsb", *paths, "task.max_validation=16", "task.max_test=48"]


def test_shares_have_the_number_for_their_mean() -> None:
    for number in (0.0, 0.2, 1.0, 3.8, 4.999, 5.0):
        shares = two_hot(number, SCALE)
        assert sum(shares) == pytest.approx(1) and np.dot(shares, SCALE) == pytest.approx(number)
        assert sum(share > 0 for share in shares) <= 2 and min(shares) >= 0
    assert two_hot(9.0, SCALE) == two_hot(5.0, SCALE) and two_hot(-1.0, SCALE) == two_hot(0.0, SCALE)
    assert np.dot(two_hot(3.0, [0.0, 1.0, 5.0]), [0.0, 1.0, 5.0]) == pytest.approx(3)


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_answers_and_loss_are_those_of_one_item_at_a_time(method: str, llama_folder: Path, tmp_path: Path) -> None:
    """Plain: unpadded, all logits, a full log_softmax; with virtual tokens in front as without."""
    chosen = ["model=custom", f"model.path={llama_folder}", f"method={method}", *pairs(tmp_path, 60)]
    config = small_runs.configure(tmp_path / "runs", *chosen)
    prepared = session.prepare(config)
    torch.manual_seed(0)
    model = config.method.attach(load(config, prepared, runtime.resolve(config))).eval()
    with torch.no_grad():
        for parameter in (one for one in model.parameters() if one.requires_grad):
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    found = small_runs.answer(model, prepared.objective, {"test": prepared.questions["test"]}, config)["test"]
    lengths, losses = set(), []
    for item, outcome in zip(prepared.splits.test, found, strict=True):
        text = f"Sentence 1: {item.fields['text']}\nSentence 2: {item.fields['text_pair']}\nSimilarity from 0 to 5:"
        ids = [tokenizer(text + word).input_ids for word in WORDS.values()]
        lengths.add(len(ids[0]))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[0][:-1]])).logits[0, -1]
        log_p = logits.log_softmax(-1)[[one[-1] for one in ids]]
        expected = float((log_p.exp() / log_p.exp().sum()) @ torch.tensor(SCALE))
        assert outcome.score == pytest.approx(expected, abs=2e-4) == float(outcome.prediction)
        assert float(outcome.target) == item.target
        low = math.floor(item.target)
        losses.append(-float((1 - item.target + low) * log_p[low] + (item.target - low) * log_p[min(low + 1, 5)]))
    assert len(lengths) > 1
    batch = prepared.objective.collate([features for _, features in prepared.questions["test"]])
    with torch.no_grad():
        assert float(prepared.objective.loss(model, batch)) == pytest.approx(sum(losses), rel=1e-3)
    assert prepared.objective.units(batch) == len(found)


def test_words_that_differ_in_more_than_their_last_token_are_refused(llama_folder: Path, tmp_path: Path) -> None:
    chosen = ["model=custom", f"model.path={llama_folder}", *pairs(tmp_path, 60)]
    with pytest.raises(
        ConfigError, match=r"^task\.number_words= 0, .* ten: in this model's tokens they differ in more"
    ):
        session.prepare(small_runs.configure(tmp_path, *chosen, "task.number_words={0: ' 0', 5: ' ten'}"))


def test_numbers_that_are_written_are_read_within_the_scale() -> None:
    task = Regression(**FIELDS, number_words=WORDS)
    said = {"3.8": 3.8, "It is 4 of 5.": 4.0, "12": 5.0, "-1": 0.0, "no idea": 2.5, "": 2.5}
    assert {text: task.grade(text, "1") for text in said} == said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"number_words": {"one": " 1", "2": " 2"}}, r"^task\.number_words\.one= 1: must be a number and its word$"),
        ({"number_words": {1: " 1"}}, "needs two numbers or more"),
        ({"number_words": WORDS, "chat": True}, r"^task\.chat=True: needs task\.number_from=generation$"),
    ],
)
def test_what_is_no_scale_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Regression(**FIELDS, **fields)


def test_kinds_of_model_and_ids_of_runs_from_before() -> None:
    task = Regression(**FIELDS)
    assert task.objective("encoder") == "regression_head"
    with pytest.raises(NotApplicable, match=r"task\.number_words"):
        task.objective("decoder")
    assert not set(task_identity(task)) & {"number_words", "number_from", "chat", "max_new_tokens", "metrics"}
    with_words = Regression(**FIELDS, number_words=WORDS)
    assert with_words.objective("decoder") == "number_words"
    written = Regression(**FIELDS, number_words=WORDS, number_from=NumberFrom.generation)
    assert written.objective("decoder") == "generation"
    assert task_identity(with_words) != task_identity(written)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["head", "expected_value", "generation"])
def test_stsb_runs_on_both_kinds_of_model(way: str, llama_folder: Path, tmp_path: Path) -> None:
    model = ["model=bert_tiny"] if way == "head" else ["model=custom", f"model.path={llama_folder}"]
    chosen = [*model, *pairs(tmp_path), *([] if way == "head" else [f"task.number_from={way}"])]
    rate = ["method=full", "train.learning_rate=3e-3" if way != "head" else "train.learning_rate=1e-3"]
    steps = ["train.max_steps=120", "train.per_device_train_batch_size=16"]
    folder, record = small_runs.run(tmp_path / "runs", *chosen, *rate, *steps)
    assert record["status"] == Status.done, record["traceback"]
    answered = read_items(folder / "items.parquet")["after"]["test"]
    said, true = ([o.score for o in answered], [float(o.target) for o in answered])
    for name, statistic in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        assert record["scores"]["after"]["test"][name]["value"] == pytest.approx(statistic(said, true).statistic)
    assert record["scores"]["after"]["test"]["pearson"]["value"] > 0.4
    if way == "generation":
        assert all(0 <= value <= 5 for value in said)
        assert {o.prediction for o in answered} & {"2.8", "0.4", "2.6", "5"}
