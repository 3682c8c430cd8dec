"""The pages on metrics, trackers, similarity and medical answers: what each shows composes, or is what it says."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import call

from harness.run import cli
from harness.tasks.external import SHIPPED
from harness.tracking import TRACKERS, Tracker

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ("metrics", "trackers", "similarity", "medical_qa")


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def commands(name: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page(name), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.strip().splitlines()]
    return [line for line in lines if line.startswith("python -m harness.run")]  # tests/test_docs.py reads the others


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_s_example_composes(name: str, tmp_path: Path) -> None:
    for part in ("train.csv", "test.csv"):
        with (tmp_path / part).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["sentence1", "sentence2", "label"], ["a", "b", "3.8"]])
    (tmp_path / "chats.jsonl").write_text(json.dumps({"Description": "", "Patient": "a", "Doctor": "b"}) + "\n")
    for command in commands(name):
        found = call(cli, *shlex.split(command)[3:], "dry_run=true", cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        assert "1 runs" in found.stdout


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_with_its_question_and_has_an_example(name: str) -> None:
    lines = [line for line in page(name).splitlines() if line]
    assert lines[0].startswith("# ") and re.fullmatch(r"\*.*\?\*", lines[1])
    assert commands(name)


def test_the_pages_name_what_there_is() -> None:
    shipped = {path.name for path in SHIPPED.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert shipped == {"word_f1", "distinct_words"}
    assert all(f"`{name}`" in page("metrics") for name in shipped)
    assert all(f"`{name}`" in page("trackers") for name in TRACKERS.names())
    shown = set(re.findall(r"def (\w+)\(", page("trackers")))
    assert shown == set(Tracker.__abstractmethods__)
