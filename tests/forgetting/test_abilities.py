"""Abilities against lm-eval itself: its evaluator, its model class, the same items."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import nn

from harness import runtime
from harness.config import RunConfig
from harness.errors import ConfigError
from harness.execution import session
from harness.execution.loading import load
from harness.forgetting.lm_eval_model import InMemory, quiet
from harness.forgetting.probes import abilities
from harness.forgetting.probes.abilities import EMBEDDED, TASK_FILES, WHOLE, Abilities
from harness.forgetting.subject import Subject, undisturbed

pytestmark = pytest.mark.usefixtures("quick")
OWN = """
task: own_{name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: {target}
{more}
metric_list:
  - metric: {metric}
metadata: {{version: 2.0}}
"""


@pytest.fixture
def overrides(llama_folder: Path, data_folder: Path) -> list[str]:
    return ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder), "rank=4"]


@pytest.fixture(autouse=True)
def data_sets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` makes of local files out of the home folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def subject_of(config: RunConfig) -> Subject:
    """Return a model whose trained tensors were moved at random."""
    prepared = session.prepare(config)
    model: nn.Module = config.method.attach(load(config, prepared, runtime.resolve(config)))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return Subject(model.eval(), config, prepared)


def measured(probe: Abilities, subject: Subject) -> Any:
    with undisturbed(subject.model, runtime.resolve(subject.config)):
        return probe.measure(subject, probe.prepare(subject.config, subject.prepared), None).items


def theirs(subject: Subject, tasks: list[str], limit: int | None, folders: list[Path], batch_size: int = 1) -> Any:
    """Return lm-eval's own results, by its own evaluator and model class."""
    tokenizer = subject.prepared.objective.tokenizer
    with quiet(), undisturbed(subject.model, runtime.resolve(subject.config)):
        return simple_evaluate(
            model=HFLM(pretrained=subject.model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=tasks,
            limit=limit,
            bootstrap_iters=0,
            task_manager=TaskManager(include_path=folders, include_defaults=False),
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "prompt", "prefix"])
def test_scores_are_those_of_lm_eval_item_by_item(method: str, overrides: list[str]) -> None:
    subject = subject_of(small_runs.configure("runs", *overrides, f"method={method}"))
    ours = measured(Abilities(limit=12), subject)
    found = theirs(subject, list(EMBEDDED), 12, [TASK_FILES])
    for task in EMBEDDED:
        for metric in ("acc", "acc_norm"):
            outcomes = ours[f"{task}/{metric}"]
            samples = found["samples"][task]
            assert [o.score for o in outcomes] == [sample[metric] for sample in samples]
            assert sum(o.score for o in outcomes) / len(outcomes) == found["results"][task][f"{metric},none"]
            for outcome, sample in zip(outcomes, samples, strict=True):
                likelihoods = [likelihood for likelihood, _ in json.loads(outcome.prediction)]
                wanted = [likelihood for likelihood, _ in sample["filtered_resps"]]
                assert likelihoods == pytest.approx(wanted, abs=1e-3)


def test_every_likelihood_is_lm_evals_own(overrides: list[str]) -> None:
    """Continuations of one token that share a run, empty contexts, and texts longer than the model takes."""
    from lm_eval.api.instance import Instance

    subject = subject_of(small_runs.configure("runs", *overrides, "method=lora"))
    pairs = [("the film was", " lovely"), ("the film was", " dull"), ("the film", " was warm here"), ("", "a book")]
    pairs += [("so " * 400, "it was"), ("the book", " " + "so it was " * 20), ("a", " b")]
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    tokenizer = subject.prepared.objective.tokenizer
    with quiet(), undisturbed(subject.model, runtime.resolve(subject.config)):
        ours = InMemory(subject.model, tokenizer, 3).loglikelihood(asked)
        wanted = HFLM(pretrained=subject.model, tokenizer=tokenizer, batch_size=1).loglikelihood(asked)
        text = [Instance("loglikelihood_rolling", {}, ("it was warm here " * 90,), 0)]
        rolling = InMemory(subject.model, tokenizer, 3).loglikelihood_rolling(text)
        wanted_rolling = HFLM(pretrained=subject.model, tokenizer=tokenizer, batch_size=1).loglikelihood_rolling(text)
    assert [same for _, same in ours] == [same for _, same in wanted]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in wanted], abs=1e-3)
    assert rolling == pytest.approx(wanted_rolling, rel=1e-5)


def test_model_class_leaves_the_model_alone(overrides: list[str]) -> None:
    subject = subject_of(small_runs.configure("runs", *overrides, "method=full"))
    before = {name: id(tensor) for name, tensor in subject.model.named_parameters(remove_duplicate=False)}
    measured(Abilities(limit=2), subject)
    assert {name: id(tensor) for name, tensor in subject.model.named_parameters(remove_duplicate=False)} == before
    assert "tie_weights" not in vars(subject.model)


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a task file of one's own."""
    rows = [{"question": f"is {n} even?", "choices": ["yes", "no"], "answer": n % 2, "text": "no"} for n in range(9)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def write(name: str, kind: str, target: str, metric: str, more: str = "") -> Path:
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.yaml"
        text = OWN.format(name=name, file=file, kind=kind, target=target, metric=metric, more=more)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.slow
def test_own_task_file_and_folder(own: Callable[..., Path], overrides: list[str]) -> None:
    subject = subject_of(small_runs.configure("runs", *overrides, "method=lora"))
    path = own("even", "multiple_choice", "answer", "acc", "doc_to_choice: choices")
    by_file = measured(Abilities(tasks=[str(path)], limit=5), subject)
    by_name = measured(Abilities(tasks=["own_even"], include_path=str(path.parent), limit=5), subject)
    assert by_file == by_name
    wanted = theirs(subject, ["own_even"], 5, [path.parent])["samples"]["own_even"]
    assert [o.score for o in by_file["own_even/acc"]] == [sample["acc"] for sample in wanted]


def test_generated_answers_and_scores_that_are_no_mean(own: Callable[..., Path], overrides: list[str]) -> None:
    subject = subject_of(small_runs.configure("runs", *overrides, "method=lora"))
    generation = "generation_kwargs: {max_gen_toks: 3, until: ['.']}"
    match = own("match", "generate_until", "text", "exact_match", generation)
    found = measured(Abilities(tasks=[str(match)], limit=4), subject)
    assert len(found["own_match/exact_match"]) == 4
    rolling = own("rolling", "loglikelihood_rolling", "question", "word_perplexity")
    probe = Abilities(tasks=[str(rolling)], limit=4)
    (whole,) = measured(probe, subject)["own_rolling/word_perplexity"]
    wanted = theirs(subject, ["own_rolling"], 4, [rolling.parent])["results"]["own_rolling"]["word_perplexity,none"]
    assert whole.item == WHOLE and whole.score == pytest.approx(wanted, rel=1e-5)
    change = probe.compare({"own_rolling/word_perplexity": [whole]}, {"own_rolling/word_perplexity": [whole]})
    assert change["own_rolling/word_perplexity"].delta.value == 0.0  # type: ignore[union-attr]


def test_more_examples_in_front(own: Callable[..., Path], overrides: list[str]) -> None:
    subject = subject_of(small_runs.configure("runs", *overrides, "method=lora"))
    path = own("even", "multiple_choice", "answer", "acc", "doc_to_choice: choices\nfewshot_split: test")
    none, two = (Abilities(tasks=[str(path)], num_fewshot=count) for count in (None, 2))
    prepared = [probe.prepare(subject.config, subject.prepared).fingerprint for probe in (none, two)]
    assert prepared[0] != prepared[1]
    assert (
        prepared[1] == Abilities(tasks=[str(path)], num_fewshot=2).prepare(subject.config, subject.prepared).fingerprint
    )


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (["piqa_embeded"], r"abilities\.tasks=piqa_embeded: lm-eval has no such task; did you mean piqa_embedded"),
        (["no_such_thing_at_all"], "lm-eval has no such task"),
    ],
)
def test_unknown_task_is_refused(
    tasks: list[str], said: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_runs.configure("runs", *overrides)
    original = TaskManager.__init__
    # lm-eval's own 14,000 task files take 5 s to read; the slow test reads them.
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, **options: original(self, **options | {"include_defaults": False})
    )
    with pytest.raises(ConfigError, match=said):
        Abilities(tasks=tasks).prepare(config, session.prepare(config))


def test_lm_evals_own_names_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its 14,000 task files, which take 5 s to read, a folder stands for all where all are asked for."""
    import lm_eval.tasks

    original, one = TaskManager.__init__, Path(lm_eval.tasks.__file__).parent / "hellaswag"

    def reads_one(self: TaskManager, include_path: list[Path], include_defaults: bool = True, **options: Any) -> None:
        folders = [*include_path, one] if include_defaults else include_path
        original(self, include_path=folders, include_defaults=False, **options)

    monkeypatch.setattr(TaskManager, "__init__", reads_one)
    with quiet(), pytest.raises(ConfigError, match="did you mean hellaswag"):
        abilities.load_tasks(["hellasswag"], None, None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": []}, r"tasks=\[\]: needs a task"),
        ({"tasks": ["a", "a"]}, "has a twice"),
        ({"tasks": ["no/such.yaml"]}, "no such task file"),
        ({"include_path": "no/such/folder"}, "no such folder"),
        ({"limit": 1}, "limit=1: must be at least 2"),
        ({"num_fewshot": -1}, "num_fewshot=-1"),
    ],
)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Abilities(**settings)


@pytest.mark.slow
def test_what_is_trained_on_is_left_out(llama_folder: Path) -> None:
    from harness.compose import compose

    config = compose(
        "model=custom", f"model.path={llama_folder}", "task=openbook_qa", "forgetting.probes.abilities.limit=2"
    )
    probe: Abilities = config.forgetting.probes["abilities"]
    prepared = session.prepare(config)
    exam = probe.prepare(config, prepared)
    assert exam.left_out == ["openbookqa_embedded"] and len(exam.tasks) == 2
    only = replace(probe, tasks=["openbookqa_embedded"])
    assert only.unsuitable(config, prepared) == "the run trains on openbookqa_embedded"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arc_challenge", "winogrande"])
def test_lm_evals_own_tasks_over_local_files(name: str, overrides: list[str], tmp_path: Path) -> None:
    """A task file of the user's that includes lm-eval's, over rows with the hub's columns."""
    import lm_eval.tasks

    rows = {
        "arc_challenge": {
            "question": "What is warm?",
            "choices": {"text": ["sea", "fire"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        "winogrande": {
            "sentence": "The film beat the book as the _ was dull.",
            "option1": "film",
            "option2": "book",
            "answer": "2",
        },
    }
    (tmp_path / "rows.jsonl").write_text((json.dumps(rows[name]) + "\n") * 4, encoding="utf-8")
    (folder,) = Path(lm_eval.tasks.__file__).parent.glob(
        f"{name.split('_', maxsplit=1)[0]}/{'arc_easy' if 'arc' in name else 'default'}.yaml"
    )
    settings = {"include": str(folder), "task": "mine", "dataset_path": "json", "dataset_name": None}
    settings |= {"training_split": None, "validation_split": None, "test_split": "test"}
    settings |= {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    (tmp_path / "mine.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    subject = subject_of(small_runs.configure("runs", *overrides, "method=lora"))
    found = measured(Abilities(tasks=[str(tmp_path / "mine.yaml")], limit=-1), subject)
    assert len(found["mine/acc"]) == 4


def test_files_in_the_home_folder_are_found_and_an_edit_is_seen(
    own: Callable[..., Path], overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_runs.configure("runs", *overrides)
    path = own("even", "multiple_choice", "answer", "acc", "doc_to_choice: choices")
    monkeypatch.setenv("HOME", str(tmp_path))
    by_file, by_name = (
        Abilities(tasks=["~/tasks/even.yaml"], limit=2),
        Abilities(tasks=["own_even"], include_path="~/tasks", limit=2),
    )
    first, same = (probe.prepare(config, session.prepare(config)).fingerprint for probe in (by_file, by_name))
    assert first == same
    path.write_text(path.read_text(encoding="utf-8").replace("{{question}}", "{{question}} now"), encoding="utf-8")
    assert by_file.prepare(config, session.prepare(config)).fingerprint != first
