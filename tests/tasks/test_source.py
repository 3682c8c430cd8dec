"""Reading rows: every format gives the same rows, and every fault names its place."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import ConfigError, DataError
from harness.tasks.source import Source, pick, read_rows

ROWS = [
    {"text": 'He said "no",\nand left', "label": "no"},
    {"text": "naïve 日本語", "label": "yes"},
    {"text": "", "label": "no"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the file's ending names."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path, **options: Any) -> list[dict[str, Any]]:
    """Read all rows of a local file."""
    return list(read_rows(Source(path=str(path), **options), path))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    assert read(write(tmp_path / f"rows.{ending}", ROWS)) == ROWS


def test_a_utf8_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,b\n", encoding="utf-8-sig")
    assert read(path) == [{"text": "a", "label": "b"}]


def test_lines_are_cut_up_by_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("NUM:date Café ?\r\nLOC:city Where ?\r\n".encode("latin-1"))
    options = {"format": "lines", "encoding": "latin-1", "pattern": r"(?P<label>[A-Z]+):\w+ (?P<text>.*)"}
    assert read(path, **options) == [{"label": "NUM", "text": "Café ?"}, {"label": "LOC", "text": "Where ?"}]
    path.write_text("NUM:date How ?\nnothing\n")
    with pytest.raises(DataError, match=r"lines\.txt:2: the line does not match"):
        read(path, **options)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.jsonl", '{"a": 1}\n{"a": \n', r"rows\.jsonl:2: not JSON: Expecting value at column"),
        ("rows.jsonl", '{"a": 1}\n\n{"a": 2}\n', r"rows\.jsonl:2: the line is empty"),
        ("rows.jsonl", '{"a": 1}\n[1]\n', r"rows\.jsonl:2: every line must be a JSON object"),
        ("rows.csv", "a,b\n1,2\n3\n", r"rows\.csv:3: the row's columns do not match the header"),
        ("rows.csv", "a,b\n1,2,3\n", r"rows\.csv:2: the row's columns do not match the header"),
        ("rows.csv", 'a,b\n"1"x,2\n', r"rows\.csv:2: not CSV"),
        ("rows.csv", 'a,b\n1,"2\n', r"rows\.csv:2: not CSV"),
        ("rows.parquet", "not parquet", r"rows\.parquet: not Parquet"),
        ("rows.xlsx", "", r"rows\.xlsx: cannot tell the format by its ending"),
    ],
)
def test_a_fault_names_its_file_and_line(tmp_path: Path, name: str, content: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("text\ncafé\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"task\.data\.encoding=.*not utf-8 at byte .*; set encoding"):
        read(path)
    assert read(path, encoding="latin-1") == [{"text": "café"}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"format": "xml"}, r"task\.data\.format=xml: one of jsonl"),
        ({"pattern": "(?P<a>"}, r"task\.data\.pattern=.*not a regular expression"),
        ({"pattern": "a"}, r"task\.data\.pattern=a: needs 1 group"),
        ({"matching": {"answer": "["}}, r"task\.data\.matching\.answer=\[: not a regular expression"),
        ({"encoding": "utf-9"}, r"task\.data\.encoding=utf-9: no such text encoding"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_at_once(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Source(path="rows.jsonl", **options)


def test_rows_are_kept_by_value_and_by_pattern(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"n": 1, "answer": "9 apples"},
        {"n": 1, "answer": "Yes"},
        {"n": 2, "answer": "3"},
        {"n": 1},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    assert read(path, where={"n": "1"}, matching={"answer": r"\d"}) == rows[:1]


def test_a_path_wins_over_a_hub_id_and_a_wheel() -> None:
    source = Source(path="rows.jsonl", id="org/data")
    assert (source.id, source.describe()) == (None, "rows.jsonl")
    assert Source(id="org/data", config="c", split="train").describe() == "org/data/c/train"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("choices.text", ["x", "y"]),
        ("input.1.content", "second"),
        ("input.-1.content", "second"),
        ("nothing|label", 1),
        ("evidence.*.2", ["One .", "Two ."]),
        ("null", None),
    ],
)
def test_pick_follows_paths(path: str, expected: Any) -> None:
    row = {
        "choices": {"text": ["x", "y"]},
        "input": [{"content": "first"}, {"content": "second"}],
        "evidence": [["Page", "0", "One ."], ["Page", "1", "Two ."]],
        "label": 1,
        "null": None,
    }
    assert pick(row, path, "rows.jsonl") == expected


@pytest.mark.parametrize("path", ["txt", "text.0.deeper", "list.7", "list.*.name"])
def test_a_missing_column_names_those_that_are_there(path: str) -> None:
    with pytest.raises(DataError, match=r"no such column in rows\.jsonl; it has text, list"):
        pick({"text": "a", "list": [{"no": 1}]}, path, "rows.jsonl")


def test_a_hub_data_set_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("offline\nand more")

    monkeypatch.setattr("datasets.load_dataset", fail)
    source = Source(id="org/data", config="c", split="train", revision="abc")
    with pytest.raises(DataError, match=r"=org/data/c/train: cannot be loaded from the hub: offline$"):
        list(read_rows(source, None))


def test_a_hub_data_set_is_asked_for_by_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load(*names: object, **options: object) -> list[dict[str, Any]]:
        asked.extend([*names, options["split"], options["revision"]])
        return ROWS

    monkeypatch.setattr("datasets.load_dataset", load)
    source = Source(id="org/data", config="c", split="train", revision="abc", where={"label": "yes"})
    assert list(read_rows(source, None)) == ROWS[1:2]
    assert asked == ["org/data", "c", "train", "abc"]
