"""The page as text: what is in it, what is not, and how the command answers to bad input."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from browser_page import EVIL, KOREAN
from command_line import call
from made_runs import Made, make_run

from analysis.effects.blocks import effects_of
from analysis.effects.comparisons import UNSEARCHED, compare, signed
from analysis.effects.outcomes import FORGETTING
from analysis.records import read_runs
from analysis.report import COMMAND
from analysis.views.report.page import embedded, page
from analysis.views.report.runs import POINTS, _even, shared
from analysis.views.report.verdicts import _reference

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    make_run(folder, made=Made(forgetting=None))
    return folder


def data_of(text: str) -> dict[str, object]:
    return json.loads(DATA.search(text)[1])  # type: ignore[index,no-any-return]


def test_embedded_data_cannot_end_its_element_and_reads_back() -> None:
    value = {"text": f"{EVIL} {KOREAN} <!-- \u2029 ]]>", "number": 0.1}
    text = embedded(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_page_asks_for_nothing_and_runs_only_its_own_scripts(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")  # type: ignore[index]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and "unsafe-eval" not in policy and "http" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert rules["script-src"].split() == [f"'sha256-{one}'" for one in hashes]
    markup = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", text, flags=re.DOTALL)
    addresses = re.findall(r'(?:src|href|action|data)="([^"]*)"', markup)
    assert [address for address in addresses if not address.startswith(("#", "data:,"))] == []
    assert EVIL not in markup


@pytest.mark.slow
def test_page_says_what_to_run_where_it_has_nothing_to_show(one_run: Path) -> None:
    text = page(read_runs(one_run), "One")
    assert "No run measured forgetting" in text
    assert "needs intruder tables: python -m analysis.intruders" in text
    assert "One seed only" in text
    assert "needs search=learning_rate, or more than one rate" in text


def test_unreadable_runs_are_named_and_the_rest_stays(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert re.search(r'<li class="problem">[^<]*broken/record.json: damaged', text)
    assert len(data_of(text)["rows"]["id"]) == 14  # type: ignore[index]


def test_missing_values_are_null_and_never_zero(page_file: Path) -> None:
    rows = data_of(page_file.read_text(encoding="utf-8"))["rows"]
    scores = dict(zip(rows["status"], rows["score"], strict=True))  # type: ignore[index]
    assert scores["failed"] is None and scores["not_applicable"] is None
    assert rows["intruders"].count(None) == 10  # type: ignore[index]


def test_every_run_has_a_command_that_was_read_back(page_file: Path) -> None:
    data = data_of(page_file.read_text(encoding="utf-8"))
    assert all(entry["command"].startswith("python -m harness.run ") for entry in data["commands"])  # type: ignore[attr-defined]
    assert sum(entry["problem"] is None for entry in data["commands"]) == 13  # type: ignore[attr-defined]  # one names a model that does not exist


@pytest.mark.slow
def test_verdicts_on_the_page_are_those_of_the_comparison(runs_folder: Path, page_file: Path) -> None:
    effects = effects_of(read_runs(runs_folder).table)
    text = html.unescape(page_file.read_text(encoding="utf-8"))
    made = compare(effects)
    forgotten = compare(effects, outcome=FORGETTING).found
    assert len(forgotten) == text.count("<tr data-forgotten>") >= 3
    assert all(f"{signed(one.difference)} [{signed(one.low)}, {signed(one.high)}]" in text for one in forgotten)
    assert len(made.found) == text.count("<tr data-pair>") >= 3
    assert text.count(UNSEARCHED) == 1
    assert "scores higher</span>" in text and "is better</span>" not in text
    ahead = sum(one.ahead is not None for one in [*made.found, *forgotten])
    assert ahead == text.count('class="verdict"') >= 1
    assert all(line in text for line in effects.warnings) and effects.warnings


@pytest.mark.slow
def test_a_run_resumed_under_other_versions_is_flagged_on_the_page(tmp_path: Path) -> None:
    make_run(tmp_path, "method=lora", mixed=["torch 2.12.0 → 2.13.0"])
    make_run(tmp_path, "method=full")
    text = html.unescape(page(read_runs(tmp_path), "Two"))
    rows = data_of(text)["rows"]
    assert dict(zip(rows["label"], rows["mixed"], strict=True)) == {  # type: ignore[index]
        "lora r16": "torch 2.12.0 → 2.13.0",
        "full": None,
    }
    columns = {column["key"]: column for column in data_of(text)["columns"]}  # type: ignore[attr-defined]
    assert columns["mixed"]["shown"]
    flag = "resumed under other versions or hardware (seed 0: torch 2.12.0 → 2.13.0)"
    assert text.count(flag) >= 2  # the rows over seeds and the comparison
    assert "<li>resumed under other versions or hardware, so that" in text


def test_searches_stand_on_the_page_with_the_rate_that_each_chose(searched_file: Path) -> None:
    text = html.unescape(searched_file.read_text(encoding="utf-8"))
    data = data_of(text)
    found = {one["name"]: one for one in data["searches"]}  # type: ignore[attr-defined]
    assert set(found) == {"lora r8", "full"}
    tried = found["lora r8"]["tried"]
    assert [(one["learning_rate"], one["value"], one["chosen"]) for one in tried] == [
        (1e-4, 0.6, False),
        (1e-3, 0.7, True),
        (1e-2, None, False),
    ]
    assert "the loss is nan" in tried[2]["reason"] and tried[0]["low"] < 0.6 < tried[0]["high"]
    labels = data["rows"]["label"]  # type: ignore[index]
    assert {name: {labels[row] for row in one["rows"]} for name, one in found.items()} == {
        "lora r8": {"lora r8"},
        "full": {"full"},
    }
    assert (found["full"]["warning"], found["lora r8"]["why"]) == (True, "the optimum lies inside")
    assert len(labels) == 4 and "1 more to search learning rates" in text


def test_between_searched_rates_the_page_says_better_and_nothing_of_pairs(searched_file: Path) -> None:
    text = html.unescape(searched_file.read_text(encoding="utf-8"))
    assert "lora r8 is better</span>" in text
    assert UNSEARCHED not in text and "scores higher</span>" not in text


def test_too_many_pairs_are_compared_with_the_one_that_validation_puts_first() -> None:
    names = [f"c{number}" for number in range(40)]
    table = pd.DataFrame({"configuration": names, "validation": range(40), "higher_is_better": True})
    assert _reference(table) == "c39"
    assert _reference(table.assign(higher_is_better=False)) == "c0"
    assert _reference(table.head(5)) is None


def test_settings_are_kept_once_where_they_agree() -> None:
    found = shared([{"a": 1, "b": 2, "c": None}, {"a": 1, "b": 3}])
    assert found == {"common": {"a": 1}, "differing": {"b": [2, 3]}}


def test_thinning_keeps_both_ends() -> None:
    assert _even(3, 10) == [0, 1, 2]
    assert _even(1000, 5) == [0, 250, 500, 749, 999]
    assert POINTS >= 10_000


@pytest.mark.slow
def test_command_writes_one_file(one_run: Path, tmp_path: Path) -> None:
    found = call(COMMAND.main, one_run, f"out={tmp_path / 'out'}", "title=한국어")
    assert found.returncode == 0, found.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"]
    assert found.stdout.startswith(f"{tmp_path / 'out' / 'index.html'}: 1 run, ")
    assert "<title>한국어</title>" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", ["nothing", "missing", "empty", "damaged", "newer", "file"])
def test_bad_input_is_one_line(case: str, one_run: Path, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    if case in ("damaged", "newer", "file"):
        shutil.copytree(one_run, runs)
    if case == "empty":
        runs.mkdir()
    if case == "file":
        out.write_text("", encoding="utf-8")
    for path in runs.rglob("record.json") if case in ("damaged", "newer") else []:
        text = path.read_text(encoding="utf-8")
        path.write_text(
            text[:99] if case == "damaged" else re.sub('"schema_version": [0-9]+', '"schema_version": 99', text)
        )
    found = call(COMMAND.main, *([] if case == "nothing" else [runs]), f"out={out}")
    assert found.returncode == 1
    assert found.stderr.startswith("report: ") and found.stderr.count("\n") == 1, found.stderr
    assert not out.is_dir()
