"""Losses and answers, each against a plain computation: one item at a time, all logits, no padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from torch import nn

from harness import runtime
from harness.config import RunConfig
from harness.execution import session
from harness.execution.loading import load
from harness.execution.session import Prepared
from harness.objectives.base import IGNORED, by_length, fit, mask, pad
from harness.objectives.generation import Generation
from harness.objectives.likelihood import Likelihood, Row, last_logits
from harness.tasks.base import Item, Outcome

pytestmark = pytest.mark.usefixtures("quick")
Ready = tuple[RunConfig, Prepared, nn.Module]


@pytest.fixture
def ready(data_folder: Path, llama_folder: Path, gpt2_folder: Path, tmp_path: Path) -> Callable[..., Ready]:
    """Return a function from a kind of task, a model and overrides to configuration, data and the adapted model."""

    def make(kind: str, model: str, *more: str) -> Ready:
        folders = {"llama": llama_folder, "gpt2": gpt2_folder}
        chosen = ["model=custom", f"model.path={folders[model]}"] if model in folders else [f"model={model}"]
        config = small_runs.configure(tmp_path, *chosen, *small_runs.task(kind, data_folder), "rank=4", *more)
        prepared = session.prepare(config)
        backbone = load(config, prepared, runtime.resolve(config))
        torch.manual_seed(0)
        adapted = config.method.attach(backbone).eval()
        with torch.no_grad():  # off its start, where most methods change nothing
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return config, prepared, adapted

    return make


METHODS = ["method=lora", "method=prompt", "method=prefix"]


def batch_of(prepared: Prepared, count: int) -> dict[str, Any]:
    return prepared.objective.collate(prepared.features[:count])


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["classification", "multiple_choice", "instruction"])
def test_answer_loss_is_that_of_all_logits(kind: str, method: str, model: str, ready: Callable[..., Ready]) -> None:
    """Logits at the answers alone give the loss that the model computes itself from labels of -100 elsewhere."""
    _, prepared, adapted = ready(kind, model, method)
    features = prepared.features[:6]
    assert len({len(f["prompt"]) for f in features}) > 1
    batch = prepared.objective.collate(features)
    units = prepared.objective.units(batch)
    assert units == sum(len(f["answer"]) for f in features)
    labels = pad([[IGNORED] * len(f["prompt"]) + f["answer"] for f in features], IGNORED)
    with torch.no_grad():
        got = prepared.objective.loss(adapted, batch)
        whole = adapted(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels)
        alone = sum(one_by_one(adapted, f["prompt"], f["answer"]) for f in features)
    torch.testing.assert_close(got / units, whole.loss, rtol=1e-5, atol=1e-5)
    assert float(got) == pytest.approx(-alone, rel=1e-4)


def one_by_one(model: nn.Module, prompt: list[int], ids: list[int]) -> float:
    """Return log p(ids | prompt) from a full log_softmax over one unpadded sequence."""
    logits = model(input_ids=torch.tensor([prompt + ids])).logits[0].double()
    log_p = torch.log_softmax(logits[-len(prompt + ids) :], -1)
    return sum(float(log_p[len(prompt) + n - 1, token]) for n, token in enumerate(ids))


@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["classification", "multiple_choice"])
def test_likelihoods_are_those_of_a_loop(kind: str, method: str, batch_size: int, ready: Callable[..., Ready]) -> None:
    """Multi-token label words, choices of different lengths and numbers: scored in batches and one by one."""
    config, prepared, adapted = ready(kind, "gpt2", method, f"train.per_device_eval_batch_size={batch_size}")
    config.train.per_device_eval_batch_size = batch_size
    found = small_runs.answer(adapted, prepared.objective, prepared.questions, config)["test"]
    items = prepared.splits.test
    with torch.no_grad():
        expected = [chosen_by_loop(prepared.objective, adapted, item) for item in items]
    assert [outcome.item for outcome in found] == [item.id for item in items]
    assert [(o.prediction, o.target, o.score, o.tokens) for o in found] == [e[:4] for e in expected]
    assert [o.loss for o in found] == pytest.approx([e[4] for e in expected], rel=1e-4)
    assert kind == "classification" or len({o.prediction for o in found}) > 1


def chosen_by_loop(objective: Any, model: nn.Module, item: Item) -> tuple[str, str, float, int, float]:
    """Return prediction, target, score, tokens and loss, written down without the objective's own methods."""
    tokenizer, task = objective.tokenizer, objective.task
    prompt = task.template.format(**item.fields)
    if item.choices:
        answers, names = [f" {choice}" for choice in item.choices], list(item.choices)
        weights, gold = [len(choice) for choice in item.choices], item.target
    else:
        answers, names = list(task.labels.values()), list(task.labels)
        weights, gold = [1] * len(names), names.index(item.target)
    start = tokenizer(prompt).input_ids
    ids = [tokenizer(prompt + text).input_ids[len(start) :] for text in answers]
    scores = [one_by_one(model, start, one) for one in ids]
    best = max(range(len(scores)), key=lambda index: scores[index] / weights[index])
    return names[best], names[gold], float(best == gold), len(ids[gold]), -scores[gold]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["classification", "multiple_choice"])
def test_a_batch_is_scored_as_answer_by_answer(kind: str, method: str, ready: Callable[..., Ready]) -> None:
    """One lookup a batch gives the sums of a lookup for each answer, over the same logits."""
    _, prepared, adapted = ready(kind, "llama", method)
    objective = prepared.objective
    assert isinstance(objective, Likelihood)
    rows = prepared.questions["test"].rows
    assert len({len(ids) for row in rows for _, _, ids in row.answers}) > 1
    with torch.no_grad():
        found = objective._score(adapted, rows)
        expected = scored_by_answer(objective, adapted, rows)
    assert found == pytest.approx(expected, rel=1e-6)


def scored_by_answer(objective: Likelihood, model: nn.Module, rows: list[Row]) -> list[float]:
    ids = [row.ids for row in rows]
    batch = {"input_ids": pad(ids, objective.tokenizer.pad_token_id), "attention_mask": mask(ids)}
    width = batch["input_ids"].shape[1]
    log_p = torch.log_softmax(last_logits(model, batch, width).float(), -1)
    sums = []
    for one, row in zip(log_p, rows, strict=True):
        for _, _, tokens in row.answers:
            start = len(row.prompt) - 1
            sums.append(sum(float(one[start + offset, token]) for offset, token in enumerate(tokens)))
    return sums


def test_label_words_of_several_tokens_are_tested(ready: Callable[..., Ready]) -> None:
    _, prepared, _ = ready("classification", "gpt2")
    rows = prepared.questions["test"].rows
    assert {len(ids) for row in rows for _, _, ids in row.answers} >= {3}


def test_answers_of_one_token_share_a_run(ready: Callable[..., Ready]) -> None:
    _, prepared, _ = ready("classification", "gpt2", "+task.labels={pos: 'Q', neg: 'X'}")
    rows = prepared.questions["test"].rows
    assert len(rows) == len(prepared.splits.test)
    assert all(len(row.answers) == 2 and row.shared == [] for row in rows)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_generation_in_groups_is_generation_one_by_one(method: str, model: str, ready: Callable[..., Ready]) -> None:
    config, prepared, adapted = ready("instruction", model, method)
    found = small_runs.answer(adapted, prepared.objective, prepared.questions, config)["test"]
    with torch.no_grad():
        expected = [greedy(prepared, adapted, item) for item in prepared.splits.test]
    assert [outcome.prediction for outcome in found] == expected
    assert len(set(expected)) > 1


def greedy(prepared: Prepared, model: nn.Module, item: Item) -> str:
    """Generate by hand: the whole sequence anew for every token, no cache, no padding."""
    task, tokenizer = prepared.task, prepared.objective.tokenizer
    ids = tokenizer(task.template.format(**item.fields)).input_ids
    start = len(ids)
    for _ in range(task.max_new_tokens):  # type: ignore[attr-defined]
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("method", METHODS)
def test_next_token_loss_is_that_of_labels(method: str, ready: Callable[..., Ready]) -> None:
    config, prepared, adapted = ready("language_modeling", "gpt2", method)
    blocks = prepared.features[-3:]
    assert len(blocks[-1]["input_ids"]) < len(blocks[0]["input_ids"]) == 32
    batch = prepared.objective.collate(blocks)
    with torch.no_grad():
        got = prepared.objective.loss(adapted, batch)
        losses = [float(adapted(**one_block(block)).loss) * (len(block["input_ids"]) - 1) for block in blocks]
    assert float(got) == pytest.approx(sum(losses), rel=1e-4)
    assert prepared.objective.units(batch) == sum(len(block["input_ids"]) - 1 for block in blocks)
    outcomes = small_runs.answer(adapted, prepared.objective, {"test": blocks}, config)["test"]
    assert [o.loss for o in outcomes] == pytest.approx(losses, rel=1e-4)
    perplexity = config.task.score(outcomes)["perplexity"].value
    assert perplexity == pytest.approx(math.exp(sum(losses) / sum(o.tokens for o in outcomes)), rel=1e-4)


def one_block(block: dict[str, Any]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([block["input_ids"]])
    labels = ids.clone()
    labels[0, 0] = IGNORED  # under prompt tuning there would be something to predict it from
    return {"input_ids": ids, "labels": labels}


def test_packed_blocks_hold_every_token_once(ready: Callable[..., Ready]) -> None:
    _, prepared, _ = ready("language_modeling", "gpt2")
    tokenizer = prepared.objective.tokenizer
    packed = [token for block in prepared.features for token in block["input_ids"]]
    texts = [tokenizer(item.fields["text"]).input_ids for item in prepared.splits.train]
    expected = [token for text in texts for token in [*text, tokenizer.eos_token_id]]
    assert expected[: len(packed)] == packed and len(expected) - len(packed) <= 1


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("method", ["method=lora", "method=prefix"])
def test_head_loss_is_the_models_own(method: str, kind: str, ready: Callable[..., Ready]) -> None:
    config, prepared, adapted = ready(kind, "bert_tiny", method)
    batch = batch_of(prepared, 6)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        got = prepared.objective.loss(adapted, batch) / prepared.objective.units(batch)
        own = adapted(**inputs, labels=batch["labels"])
    torch.testing.assert_close(got, own.loss, rtol=1e-5, atol=1e-6)
    outcomes = small_runs.answer(adapted, prepared.objective, prepared.questions, config)["test"]
    for outcome, (item, features) in zip(outcomes, prepared.questions["test"], strict=True):
        one = prepared.objective.collate([features])
        with torch.no_grad():
            logits = adapted(**{name: one[name] for name in inputs}).logits[0]
        assert_outcome(outcome, item, logits, prepared)


def assert_outcome(outcome: Outcome, item: Item, logits: torch.Tensor, prepared: Prepared) -> None:
    assert outcome.item == item.id
    if len(logits) == 1:
        assert outcome.score == pytest.approx(float(logits[0]), rel=1e-4, abs=1e-5)
        assert float(outcome.target) == item.target
        return
    names = list(prepared.task.labels)  # type: ignore[attr-defined]
    assert outcome.prediction == names[int(logits.argmax())]
    assert outcome.score == float(outcome.prediction == item.target)
    assert outcome.loss == pytest.approx(-float(logits.log_softmax(-1)[names.index(item.target)]), rel=1e-4)


@pytest.mark.slow
def test_choices_of_different_number_are_scored_item_by_item(ready: Callable[..., Ready]) -> None:
    config, prepared, adapted = ready("multiple_choice", "bert_tiny")
    outcomes = small_runs.answer(adapted, prepared.objective, prepared.questions, config)["test"]
    assert {len(item.choices) for item in prepared.splits.test} == {2, 3, 4}
    tokenizer = prepared.objective.tokenizer
    for outcome, item in zip(outcomes, prepared.splits.test, strict=True):
        prompt = prepared.task.template.format(**item.fields)
        with torch.no_grad():
            logits = torch.stack(
                [adapted(**tokenizer(prompt, choice, return_tensors="pt")).logits[0, 0] for choice in item.choices]
            )
        assert outcome.prediction == item.choices[int(logits.argmax())]
        assert outcome.target == item.choices[item.target]
        assert outcome.loss == pytest.approx(-float(logits.log_softmax(-1)[item.target]), rel=1e-4, abs=1e-5)
    with torch.no_grad():
        batch = prepared.objective.collate([features for _, features in prepared.questions["test"]])
        loss = prepared.objective.loss(adapted, batch)
    assert float(loss) == pytest.approx(sum(outcome.loss for outcome in outcomes), rel=1e-4)


def test_choice_head_shows_its_prompt(ready: Callable[..., Ready]) -> None:
    _, prepared, _ = ready("multiple_choice", "bert_tiny")
    item = prepared.splits.test[0]
    assert prepared.objective.show(item) == f"{item.fields['text']}. True?"


TEMPLATE = "Read: {text}\nand {text_pair}\nAnswer:"


@pytest.mark.parametrize("budget", [16, 40, 200])
@pytest.mark.parametrize(("first", "second"), [(400, 3), (3, 400), (300, 300), (300, 250), (0, 90), (2, 2)])
def test_long_fields_are_cut_and_the_template_is_not(
    first: int, second: int, budget: int, ready: Callable[..., Ready]
) -> None:
    _, prepared, _ = ready("classification", "gpt2")
    tokenizer = prepared.objective.tokenizer
    fields = {"text": "the film was " * first, "text_pair": "by the sea " * second, "unused": "x" * 999}
    text = fit(TEMPLATE, fields, tokenizer, budget)
    frame = len(tokenizer(TEMPLATE.format(text="", text_pair="")).input_ids)
    assert len(tokenizer(text).input_ids) <= max(budget, frame)
    assert text.startswith("Read: ") and text.endswith("\nAnswer:")
    kept = text.removeprefix("Read: ").removesuffix("\nAnswer:").split("\nand ")
    assert fields["text"].startswith(kept[0]) and fields["text_pair"].startswith(kept[1])
    if TEMPLATE.format(**fields) != text:  # what is cut away is no more than needed
        assert len(tokenizer(text).input_ids) >= max(budget - 2, min(frame, budget))
    shorter = min(first, second)
    if shorter == 3 and budget > frame + 24:
        assert kept[first > second] == fields["text_pair" if first > second else "text"]


def test_one_character_of_many_tokens_is_not_taken_for_one_token(ready: Callable[..., Ready]) -> None:
    _, prepared, _ = ready("classification", "gpt2")
    tokenizer = prepared.objective.tokenizer
    text = fit("{text} end", {"text": "🙂" * 20}, tokenizer, 30)
    assert len(tokenizer(text).input_ids) <= 30
    assert text.endswith(" end")


def test_cut_items_are_counted_once(ready: Callable[..., Ready]) -> None:
    """Choices, repeated tokenising and showing an item do not count it again, or records would differ."""
    for kind, model in (("multiple_choice", "gpt2"), ("multiple_choice", "bert_tiny"), ("instruction", "gpt2")):
        _, prepared, _ = ready(kind, model, "task.max_length=14")
        splits = prepared.splits
        count = len(splits.train) + len(splits.validation) + len(splits.test)
        assert prepared.objective.shortened == count
        prepared.objective.show(splits.test[0])
        prepared.objective.features(splits.train)
        assert prepared.objective.shortened == count


def test_nothing_is_counted_as_cut_that_just_fits(ready: Callable[..., Ready]) -> None:
    _, prepared, _ = ready("classification", "bert_tiny")
    longest = max(feature["length"] for feature in prepared.features)
    _, fitting, _ = ready("classification", "bert_tiny", f"task.max_length={longest}")
    assert fitting.objective.shortened == 0
    assert max(feature["length"] for feature in fitting.features) == longest


@pytest.mark.parametrize("kind", ["classification", "multiple_choice", "instruction"])
def test_prompts_and_answers_fit_together(kind: str, ready: Callable[..., Ready]) -> None:
    _, prepared, _ = ready(kind, "gpt2", "task.max_length=20")
    assert prepared.objective.shortened > 0
    assert max(feature["length"] for feature in prepared.features) <= 20
    end = prepared.objective.tokenizer(prepared.task.template.rsplit("}", 1)[1]).input_ids[-2:]
    assert all(feature["prompt"][-2:] == end for feature in prepared.features)


def test_long_answers_are_cut_and_prompts_do_not_know_them(ready: Callable[..., Ready]) -> None:
    _, prepared, _ = ready("instruction", "gpt2", "task.max_length=32")
    objective = prepared.objective
    assert isinstance(objective, Generation)
    long = Item("a", {"text": "the film was fine " * 9}, "lovely garden " * 50)
    (feature,) = objective.features([long])
    assert feature["length"] == 32 and objective.tokenizer.eos_token_id not in feature["answer"]
    short = Item("b", long.fields, "no")
    questions = objective.questions([long, short])
    assert questions[0][1] == questions[1][1]
    assert len(questions[0][1]) <= 32 - prepared.task.max_new_tokens  # type: ignore[attr-defined]


def test_empty_prompt_has_something_to_predict_from(ready: Callable[..., Ready]) -> None:
    _, prepared, _ = ready("classification", "gpt2")
    objective = prepared.objective
    assert isinstance(objective, Likelihood)
    prompt, ids = objective.continuation("", " good")
    assert prompt == [objective.tokenizer.eos_token_id]
    assert ids == objective.tokenizer(" good").input_ids


CHAT = "{% for m in messages %}<|end|>{{ m.role }}\n{{ m.content }}\n{% endfor %}<|end|>assistant{{ '\n' }}"


def test_chat_template_brings_its_own_special_tokens(ready: Callable[..., Ready]) -> None:
    _, prepared, _ = ready("instruction", "gpt2")
    tokenizer = deepcopy(prepared.objective.tokenizer)
    tokenizer.chat_template = CHAT
    objective = Generation(replace(prepared.task, chat=True, system="Be brief"), tokenizer)  # type: ignore[type-var]
    item = prepared.splits.test[0]
    expected = f"<|end|>system\nBe brief\n<|end|>user\n{item.fields['text']}. How?\n<|end|>assistant\n"
    (feature,) = objective.features([item])
    assert objective.show(item) == expected
    assert tokenizer.decode(feature["prompt"]) == expected
    assert tokenizer.decode(feature["answer"]) == f"{item.target}<|end|>"
    assert objective.questions([item])[0][1] == feature["prompt"]


def test_batches_by_length_hold_every_row_once() -> None:
    rows = [3, 9, 1, 9, 4, 4, 7]
    batches = list(by_length(rows, lambda row: row, 3))
    assert [[rows[index] for index in batch] for batch in batches] == [[9, 9, 7], [4, 4, 3], [1]]
    assert sorted(index for batch in batches for index in batch) == list(range(7))


def test_evaluation_leaves_mode_and_random_numbers_alone(ready: Callable[..., Ready]) -> None:
    config, prepared, adapted = ready("instruction", "gpt2")
    for training in (True, False):
        adapted.train(training)
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        small_runs.answer(adapted, prepared.objective, prepared.questions, config)
        assert torch.equal(torch.rand(1), expected)
        assert adapted.training == training
