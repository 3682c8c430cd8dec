"""A kind of task is one file: one defined here, and nowhere else, is trained, answered, scored and recorded."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import small_runs
import torch
from hydra.core.config_store import ConfigStore
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.compose import register
from harness.config import RunConfig
from harness.errors import ConfigError
from harness.forgetting.sequence import unsuitable
from harness.objectives import build
from harness.objectives.base import OBJECTIVES
from harness.storage.outcomes import read_items
from harness.storage.record import Status
from harness.tasks.base import TASKS, Outcome, Score, accuracy, bootstrap
from harness.tasks.contracts import Answer, LabelTask
from harness.tasks.source import Row, pick

pytestmark = pytest.mark.usefixtures("quick")
WORDS = {"1": " bad", "2": " fine", "3": " very good"}
CONTRIBUTING = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


@dataclass
class Rating(LabelTask):
    """One of three ratings; to be off by one is better than to be off by two."""

    own_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "mae")
    metric: str = "mae"

    def target(self, row: Row, where: str) -> str | None:
        """Return the rating, 1 to 3; None marks a row without one."""
        value = pick(row, self.columns["label"], where)
        return None if value is None else str(value)

    def shared_answers(self) -> list[Answer]:
        """Return the ratings with the words that a decoder answers with."""
        return [Answer("1", " bad"), Answer("2", " fine"), Answer("3", " very good")]

    def score(self, outcomes: list[Outcome]) -> dict[str, Score]:
        """Accuracy, and the mean absolute error: mean |prediction − target|."""
        errors = [abs(int(outcome.prediction) - int(outcome.target)) for outcome in outcomes]
        mae = bootstrap(errors, lambda values: float(values.mean()), higher_is_better=False)
        return {"accuracy": accuracy(outcomes), "mae": mae}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the kind for one test, as importing its file would."""
    register()  # all other kinds, which are to stay
    monkeypatch.setattr(TASKS, "_classes", dict(TASKS._classes))
    monkeypatch.setitem(ConfigStore.instance().repo["task"], "rating.yaml", None)
    TASKS.register("rating")(Rating)


@pytest.fixture
def truth(tmp_path: Path) -> dict[str, str]:
    """Write ratings of the sentences, and return them by the id of their item."""
    sentences = [text for text, _ in small_runs.sentences()]
    ratings = {text: len(text) % 3 + 1 for text in sentences}
    rows = [json.dumps({"text": text, "stars": rating}) for text, rating in ratings.items()]
    (tmp_path / "ratings.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return {hashlib.sha256(text.encode()).hexdigest()[:16]: str(rating) for text, rating in ratings.items()}


def overrides(tmp_path: Path, *model: str) -> list[str]:
    sizes = ["task.max_train=120", "task.max_validation=16", "task.max_test=24"]
    columns = ["+task.columns={text: text, label: stars}", "task.template='{text}. It is'"]
    return ["task=rating", f"task.data.all.path={tmp_path / 'ratings.jsonl'}", *columns, *sizes, *model]


def configured(tmp_path: Path) -> RunConfig:
    return small_runs.configure(tmp_path / "runs", *overrides(tmp_path, "model=bert_tiny"))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "bert_tiny"])
def test_a_kind_defined_here_alone_is_run(
    model: str, llama_folder: Path, truth: dict[str, str], tmp_path: Path
) -> None:
    chosen = ["model=custom", f"model.path={llama_folder}"] if model == "llama" else [f"model={model}"]
    folder, record = small_runs.run(tmp_path / "runs", *overrides(tmp_path, *chosen), "method=lora", "rank=4")
    assert record["status"] == Status.done, record["traceback"]
    assert (record["metric"], record["config"]["task"]["kind"]) == ("mae", "rating")
    items = read_items(folder / "items.parquet")
    for phase, split in (("before", "test"), ("after", "validation"), ("after", "test")):
        answered = items[phase][split]
        assert {outcome.target for outcome in answered} == set(WORDS)
        assert all(outcome.target == truth[outcome.item] for outcome in answered)
        errors = [abs(int(outcome.prediction) - int(truth[outcome.item])) for outcome in answered]
        score = record["scores"][phase][split]["mae"]
        assert score["value"] == pytest.approx(sum(errors) / len(errors))
        assert score["higher_is_better"] is False
        right = record["scores"][phase][split]["accuracy"]["value"]
        assert right == pytest.approx(errors.count(0) / len(errors))


@pytest.mark.slow
def test_a_decoder_chooses_between_the_words(llama_folder: Path, truth: dict[str, str], tmp_path: Path) -> None:
    """By plain transformers, one answer at a time."""
    chosen = overrides(tmp_path, "model=custom", f"model.path={llama_folder}")
    folder, _ = small_runs.run(tmp_path / "runs", *chosen)
    model, tokenizer = (made.from_pretrained(llama_folder) for made in (AutoModelForCausalLM, AutoTokenizer))
    by_id = {hashlib.sha256(text.encode()).hexdigest()[:16]: text for text, _ in small_runs.sentences()}
    for outcome in read_items(folder / "items.parquet")["before"]["test"]:
        prompt = f"{by_id[outcome.item]}. It is"
        found = {rating: log_p(model, tokenizer, prompt, word) for rating, word in WORDS.items()}
        assert outcome.prediction == max(found, key=lambda rating: found[rating])
        assert outcome.loss == pytest.approx(-found[truth[outcome.item]], rel=1e-4)


@torch.no_grad()
def log_p(model: torch.nn.Module, tokenizer: AutoTokenizer, prompt: str, answer: str) -> float:
    start, ids = (tokenizer(text).input_ids for text in (prompt, prompt + answer))  # type: ignore[operator]
    log_probabilities = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(log_probabilities[position - 1, ids[position]]) for position in range(len(start), len(ids)))


def test_its_accuracy_makes_it_fit_for_a_sequence_of_tasks(truth: dict[str, str], tmp_path: Path) -> None:
    config = configured(tmp_path)
    assert unsuitable(replace(config, sequence_tasks={"rating": config.task})) is None


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("liklihood", r"^objective=liklihood: no such objective; did you mean likelihood\? \(choice_head, .*\)$"),
        ("generation", "^task=rating: its objective generation needs a subclass of GenerationTask$"),
    ],
)
def test_an_objective_that_cannot_answer_it_is_refused(
    objective: str, said: str, truth: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rating, "objective", lambda self, kind: objective)
    with pytest.raises(ConfigError, match=said):
        build(configured(tmp_path).task, "decoder", None)  # type: ignore[arg-type]


def test_objectives_are_found_in_their_package() -> None:
    decoders = {"generation", "likelihood", "next_token", "number_words"}
    assert set(OBJECTIVES.names()) == decoders | {"choice_head", "head", "regression_head"}
    assert "objective" not in ConfigStore.instance().repo


@pytest.mark.parametrize("kind", ["classification", "instruction", "multiple_choice", "regression"])
def test_means_of_item_scores_are_metrics(kind: str) -> None:
    assert set(TASKS[kind].per_item_metrics) <= set(TASKS[kind].own_metrics)
    assert bool(TASKS[kind].per_item_metrics) == (kind != "regression")


def test_a_contract_that_is_not_fulfilled_is_no_task() -> None:
    class Half(LabelTask):
        def target(self, row: Row, where: str) -> str:
            return ""

        def score(self, outcomes: list[Outcome]) -> dict[str, Score]:
            return {}

    with pytest.raises(TypeError, match="shared_answers"):
        Half()  # type: ignore[abstract]


def test_the_guide_shows_this_kind_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), flags=re.DOTALL)
    (shown,) = [block for block in blocks if "@TASKS.register" in block]
    (tmp_path / "rating.py").write_text(shown, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    TASKS._classes.pop("rating")
    kind = importlib.import_module("rating").Rating
    monkeypatch.delitem(sys.modules, "rating")
    assert TASKS["rating"] is kind
    assert shown.endswith(f'@TASKS.register("rating")\n{inspect.getsource(Rating)}')
