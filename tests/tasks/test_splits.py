"""Splits: by the text's hash, never by seed or order, and no text in two of them."""

from __future__ import annotations

import json
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, DataError
from harness.tasks.base import SPLITS, Item, Splits, clusters
from harness.tasks.classification import Classification
from harness.tasks.instruction import Instruction
from harness.tasks.multiple_choice import MultipleChoice
from harness.tasks.source import Source, Sources

Rows = list[dict[str, Any]]
LABELS = {"a": " first", "b": " second"}


def rows(count: int, word: str = "text") -> Rows:
    """Return distinct rows with both labels."""
    return [{"text": f"{word} {number}", "label": "ab"[number % 2]} for number in range(count)]


def sources(folder: Path, **parts: Rows) -> Sources:
    """Write each part as a JSONL file."""
    for name, part in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return Sources(**{name: Source(path=str(folder / f"{name}.jsonl")) for name in parts})


def classification(folder: Path, parts: dict[str, Rows], **options: Any) -> Classification:
    """Return a task over `parts`."""
    columns = {"text": "text", "label": "label"}
    settings = {"max_validation": -1, "max_test": -1, **options}
    return Classification(data=sources(folder, **parts), columns=columns, labels=LABELS, **settings)


def load(task: Any) -> Splits:
    """Load a task whose sources are all local files."""
    splits: Splits = task.load(lambda source: Path(source.path))
    return splits


def texts(splits: Splits, name: str) -> set[str]:
    """Return the texts of a split."""
    return {item.fields["text"] for item in getattr(splits, name)}


def test_the_split_is_the_first_32_bits_of_the_texts_hash(tmp_path: Path) -> None:
    given = rows(300)
    splits = load(classification(tmp_path, {"all": given}, test_share=0.2, validation_share=0.3))
    expected: dict[str, set[str]] = {name: set() for name in SPLITS}
    for row in given:
        share = int(sha256(row["text"].encode()).hexdigest()[:8], 16) / 2**32
        expected["test" if share < 0.2 else "validation" if share < 0.5 else "train"].add(row["text"])
    assert {name: texts(splits, name) for name in SPLITS} == expected


def test_the_split_does_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    given = [*rows(200), {"text": "Text 7", "label": "a"}, {"text": " text  9 ", "label": "b"}]
    first = load(classification(tmp_path, {"all": given}))
    random.Random(0).shuffle(given)
    again = load(classification(tmp_path, {"all": given}))
    assert again == first
    assert again.fingerprint() == first.fingerprint()


def test_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    given = [*rows(100), *rows(30), {"text": "text 0", "label": "b"}]
    splits = load(classification(tmp_path, {"all": given}))
    assert sum(len(getattr(splits, name)) for name in SPLITS) == 100
    assert splits.dropped == {"duplicates": 30, "duplicates with another target": 1}
    assert not texts(splits, "train") & (texts(splits, "test") | texts(splits, "validation"))


def test_a_text_of_the_datas_own_test_split_is_never_trained_on(tmp_path: Path) -> None:
    parts = {"train": rows(100), "validation": rows(20), "test": rows(10)}
    splits = load(classification(tmp_path, parts))
    assert texts(splits, "test") == {f"text {number}" for number in range(10)}
    assert texts(splits, "validation") == {f"text {number}" for number in range(10, 20)}
    assert texts(splits, "train") == {f"text {number}" for number in range(20, 100)}
    assert splits.dropped == {"duplicates": 30}


def test_a_missing_split_is_taken_from_training_by_hash(tmp_path: Path) -> None:
    splits = load(classification(tmp_path, {"train": rows(200), "test": rows(10, "other")}))
    assert len(splits.test) == 10
    assert len(splits.train) + len(splits.validation) == 200
    assert 5 < len(splits.validation) < 40  # 20 of 200 expected; the standard deviation is 4.2


def test_limits_take_the_first_in_hash_order(tmp_path: Path) -> None:
    whole = load(classification(tmp_path, {"all": rows(300)}))
    part = load(classification(tmp_path, {"all": rows(300)}, max_train=50, max_test=5))
    assert part.train == whole.train[:50]
    assert part.test == whole.test[:5]
    assert [item.id for item in whole.train] == sorted(item.id for item in whole.train)


def test_the_same_text_may_have_many_answers_in_one_split(tmp_path: Path) -> None:
    given = [{"q": f"question {n}", "a": answer} for n in range(60) for answer in ("one", "two", "one")]
    task = Instruction(
        data=sources(tmp_path, all=given),
        columns={"text": "q", "answer": "a"},
        max_validation=-1,
        max_test=-1,
    )
    splits = load(task)
    assert sum(len(getattr(splits, name)) for name in SPLITS) == 120
    assert splits.dropped == {"duplicates": 60}
    ids = [item.id for name in SPLITS for item in getattr(splits, name)]
    assert len(set(ids)) == 120
    assert not texts(splits, "train") & texts(splits, "test")
    assert not texts(splits, "train") & texts(splits, "validation")


def test_another_answer_to_a_tested_question_is_not_trained_on(tmp_path: Path) -> None:
    train = [{"q": f"question {n}", "a": "one"} for n in range(60)]
    test = [{"q": f"question {n}", "a": "two"} for n in range(6)]
    data = sources(tmp_path, train=train, test=test)
    splits = load(Instruction(data=data, columns={"text": "q", "answer": "a"}))
    assert splits.dropped == {"texts of another split": 6}
    assert not texts(splits, "train") & texts(splits, "test")


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task\.data\.test=custom: the split has no rows"):
        load(classification(tmp_path, {"all": rows(50)}, test_share=0.0))
    with pytest.raises(DataError, match=r"all\.jsonl: the file has no rows"):
        load(classification(tmp_path, {"all": []}))


def test_a_label_never_seen_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task\.labels=c: a label of .* that task\.labels does not name"):
        load(classification(tmp_path, {"all": [*rows(50), {"text": "x", "label": "c"}]}))
    parts = {"train": [row for row in rows(80) if row["label"] == "a"], "test": rows(10, "other")}
    with pytest.raises(DataError, match=r"task\.labels=b: a label of the test split"):
        load(classification(tmp_path, parts))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task\.columns=label: no such column in .*; it has text"):
        load(classification(tmp_path, {"all": [{"text": "a"}]}))


@pytest.mark.parametrize("label", ["", None, -1])
def test_rows_without_a_label_are_refused_unless_asked_for(tmp_path: Path, label: Any) -> None:
    parts = {"all": [*rows(60), {"text": "x", "label": label}]}
    with pytest.raises(ConfigError, match=r"task\.drop_unlabelled=true"):
        load(classification(tmp_path, parts))
    assert load(classification(tmp_path, parts, drop_unlabelled=True)).dropped == {"without a target": 1}


def test_choices_are_cut_up_and_odd_items_left_out(tmp_path: Path) -> None:
    given = [{"q": f"question {n}", "o": "\nA. x\nB. y", "a": "B. y"} for n in range(60)]
    given.append({"q": "broken", "o": "A. x", "a": "D. z"})
    task = MultipleChoice(
        data=sources(tmp_path, all=given),
        columns={"text": "q", "choices": "o", "answer": "a"},
        choices_pattern=r"(?m)^[A-Z]\. ?(.*)$",
        answer_pattern=r"^([A-Z])\.",
        choice_count=2,
        drop_unlabelled=True,
    )
    splits = load(task)
    assert splits.dropped == {"without a target": 1}
    assert {(item.choices, item.target) for item in splits.test} == {(("x", "y"), 1)}


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("so it is 2,125.\n#### 2,125\nThe answer is: 2125", "2125"),
        ("The answer is $1,450,000.", "1450000"),
        ("no final answer", "no final answer"),
        (r"The answer is: \frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_the_final_answer_of_a_worked_solution(text: str, final: str) -> None:
    pattern = r"(?m)(?:####|[Tt]he answer is:?)\s*\$?(.+?)\.?$"
    task = Instruction(
        data=Sources(all=Source(path="x.jsonl")), columns={"text": "q", "answer": "a"}, answer_pattern=pattern
    )
    assert task.final_answer(text) == final


def test_items_on_one_passage_are_a_cluster_and_single_texts_are_none() -> None:
    passage = "a passage of many words, number "
    pairs = [Item(str(k), {"text": f"question {k}", "text_pair": f"{passage}{k // 2}"}, 0) for k in range(4)]
    found = clusters(pairs)
    assert found["0"] == found["1"] != found["2"] == found["3"]
    assert len(set(clusters([Item(str(k), {"text": f"question {k}"}, 0) for k in range(4)]).values())) == 4
    assert clusters([]) == {}
