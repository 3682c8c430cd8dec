"""The results that README and the documentation show are what the studies' kept records give by today's statistics.

The records are real runs, kept without weights, so that a change of the statistics cannot leave a number or a sentence
behind. What is compared is text: each cell of each row shown, in order, and each sentence.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from analysis.table import COMMAND
from analysis.views.table.command import tabulate

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
STUDIES = {"encoder": "answer", "decoder": "decoder"}
"""A study's page and records, and the folder in which its command puts the runs."""
SHOWN = [("README.md", "encoder"), ("README.ko.md", "encoder"), ("docs/studies/encoder.md", "encoder")]
SHOWN += [("docs/studies/decoder.md", "decoder")]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((DOCS / "methods").glob("*.md"))}
METHODS = [name for name, text in PAGES.items() if "studies/" in text]


class Printed:
    """What the command of a study prints of its kept records, once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = cache(self._text)

    def _text(self, study: str) -> str:
        with tarfile.open(DOCS / "studies" / "records" / f"{study}.tar.xz") as archive:
            archive.extractall(self.folder, filter="data")
        runs, out = self.folder / "runs" / STUDIES[study], self.folder / "tables"
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            tabulate(COMMAND.parse([str(runs), "rates=chosen", "compare=true", f"out={out}"]))
        return said.getvalue()


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Printed:
    return Printed(tmp_path_factory.mktemp("studies"))


def block_of(page: str) -> str:
    """Return the page's printed table and answer: its first block that begins with the column of configurations."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return next(block for block in blocks if block.startswith("configuration"))


def cells(row: str) -> list[str]:
    return re.split(r"\s{2,}", row.strip())


def in_order(parts: list[str], text: str) -> bool:
    """Whether every part stands in the text, each after the one before."""
    place = 0
    for part in parts:
        place = text.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


@pytest.mark.parametrize(("page", "study"), SHOWN)
def test_a_table_shown_is_what_its_records_give(page: str, study: str, printed: Printed) -> None:
    rows = [cells(row) for row in block_of(page).split("\n\n")[0].splitlines()[1:]]
    assert rows
    lines = {cells(line)[0]: line for line in printed.text(study).split("\n\n")[0].splitlines()}
    for row in rows:
        assert in_order(row, lines[row[0]]), f"{page} shows {row}, its records give {lines[row[0]]}"


@pytest.mark.parametrize(("page", "study"), [one for one in SHOWN if not one[0].endswith("ko.md")])
def test_an_answer_shown_is_what_its_records_give(page: str, study: str, printed: Printed) -> None:
    said = " ".join(block_of(page).split("\n\n", 1)[1].split())
    parts = [part.strip() for part in said.split("(…)")]
    assert in_order(parts, " ".join(printed.text(study).split())), f"{page} says: {said}"


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_result_is_what_its_records_give(name: str, printed: Printed) -> None:
    study = ""
    for row in re.findall(r"^\| .*\d.*\|$", PAGES[name], flags=re.MULTILINE):
        study = next(iter(re.findall(r"studies/(\w+)\.md", row)), study)
        shown = re.findall(r"[-+]?\d*\.\d+ \[[^]]+\]", row)
        assert shown, row
        assert any(in_order(shown, line) for line in printed.text(study).splitlines()), f"{name}: {row}"


def rows_in(text: str, columns: int) -> list[str]:
    """Return a page's Markdown rows of so many columns, heads and rules left out."""
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == columns + 1]
    return [row for row in rows if not row.startswith(("| task |", "| claim |"))]


@pytest.fixture(scope="module")
def illusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the records of the intruder study."""
    folder = tmp_path_factory.mktemp("illusion")
    with tarfile.open(DOCS / "studies" / "records" / "illusion.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "runs" / "illusion"


def counts(run: Path, control: str) -> dict[int | None, dict[str, Any]]:
    """Return the headline of each kept step of a run, None for the end of training."""
    entries = json.loads((run / "analysis" / "intruders.json").read_text(encoding="utf-8"))
    return {entry["step"]: entry for entry in entries if entry["control"] == control}


def test_the_intruder_study_is_as_large_as_it_says(illusion: Path) -> None:
    tasks = ("trec", "sarcasm", "rotten_tomatoes")
    records = [json.loads(path.read_text()) for task in tasks for path in illusion.glob(f"{task}/*/record.json")]
    searches = [record for record in records if record["purpose"] == "search"]
    assert (len(records) - len(searches) - 4, len(searches)) == (162, 255)  # four runs at lower rates
    assert "162 results and 255 search runs" in (DOCS / "studies" / "illusion.md").read_text(encoding="utf-8")


def test_what_two_machines_trained_has_the_same_counts(illusion: Path) -> None:
    again = list((illusion / "steps").iterdir())
    assert len(again) == 6
    for run in again:
        found = [counts(folder, "none")[None]["intruders_u"] for folder in (run, illusion / "trec" / run.name)]
        assert found[0] == found[1], run.name


def test_along_training_the_mean_count_is_never_above_that_of_random_changes(illusion: Path) -> None:
    runs = list((illusion / "steps").glob("lora*"))
    own, chance = [counts(run, "none") for run in runs], [counts(run, "spectrum") for run in runs]
    assert len(own[0]) == 11
    for step in own[0]:
        assert sum(one[step]["intruders_u"] for one in own) <= sum(one[step]["intruders_u_high"] for one in chance)


def test_every_row_of_the_intruder_study_is_what_its_records_give(illusion: Path) -> None:
    said = ""
    for folders in (["trec", "sarcasm", "rotten_tomatoes"], ["sequences"]):
        command = [sys.executable, str(ROOT / "scripts" / "study_illusion.py")]
        command += [str(illusion / folder) for folder in folders]
        said += subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    page, printed = (DOCS / "studies" / "illusion.md").read_text(encoding="utf-8"), set(said.splitlines())
    for columns, least in ((8, 20), (5, 20)):
        rows = rows_in(page, columns)
        assert len(rows) >= least
        assert [row for row in rows if row not in printed] == []


def test_a_changed_number_would_be_found() -> None:
    line = "full   0.000178  accuracy .912 [.882, .942]   37"
    assert in_order(["full", "0.000178", ".912 [.882, .942]", "37"], line)
    assert not in_order(["full", "0.000178", ".912 [.882, .943]"], line)
