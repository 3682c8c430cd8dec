"""Metrics of the `evaluate` library beside a task's own: by folder, by hub id, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_runs

from analysis.records.metrics import metric_of, rows_of
from harness.errors import ConfigError
from harness.identity import task_identity
from harness.storage.outcomes import read_items
from harness.sweep import check_metrics
from harness.tasks import external
from harness.tasks.base import Item, Outcome, Splits, bootstrap
from harness.tasks.instruction import Instruction
from harness.tasks.language_modeling import LanguageModeling
from harness.tasks.regression import Regression
from harness.tasks.source import Source, Sources

WORD_F1, DISTINCT = "path:word_f1", "path:distinct_words"
PAIRS = [("the cat sat", "the cat ran"), ("yes", "no"), ("a dog", "a dog"), ("on the mat", "it is on a mat"), ("", "x")]
DATA = Sources(all=Source(path=__file__))

SCRIPT = """
import datasets
import evaluate
{imports}

class Metric(evaluate.Metric):
    def _info(self):
        features = {features}
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {result}
"""
TEXTS = 'datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})'


def written(folder: Path, name: str, result: str, features: str = TEXTS, imports: str = "") -> str:
    """Write a metric's script and return how a task names it."""
    (folder / name).mkdir()
    code = SCRIPT.format(result=result, features=features, imports=imports)
    (folder / name / f"{name}.py").write_text(code, encoding="utf-8")
    return f"path:{folder / name}"


def outcomes(pairs: list[tuple[str, str]] = PAIRS) -> list[Outcome]:
    return [Outcome(str(n), said, asked, float(said == asked)) for n, (said, asked) in enumerate(pairs)]


def instruction(**fields: Any) -> Instruction:
    return Instruction(data=DATA, columns={"text": "t", "answer": "a"}, **fields)


def test_a_metric_of_items_has_the_intervals_of_the_tasks_own() -> None:
    by_hand = [2 / 3, 0.0, 1.0, 2 * 2 / 8, 0.0]  # shared words, twice, over all words of both
    found = instruction(metrics=[WORD_F1]).scores(outcomes())["word_f1"]
    assert found.value == pytest.approx(np.mean(by_hand))
    expected = bootstrap(by_hand, lambda values: float(values.mean()))
    assert (found.low, found.high, found.n) == pytest.approx((expected.low, expected.high, 5))


def test_a_folder_of_this_machine_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "word_f1", "{'word_f1': 0.125}")
    assert external.parsed(WORD_F1).folder == external.SHIPPED / "word_f1"
    monkeypatch.chdir(tmp_path)
    assert instruction(metrics=[WORD_F1]).scores(outcomes())["word_f1"].value == 0.125


def test_a_metric_of_all_answers_together_has_no_interval() -> None:
    found = instruction(metrics=[DISTINCT]).scores(outcomes())["distinct_words"]
    words = ["the", "cat", "sat", "yes", "a", "dog", "on", "the", "mat"]
    assert found.value == pytest.approx(len(set(words)) / len(words))
    assert np.isnan(found.low) and np.isnan(found.high)


def test_values_of_items_are_kept_and_no_script_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    task = instruction(metrics=[WORD_F1])
    kept = task.annotated(outcomes())
    assert [one.measured["word_f1"] for one in kept] == pytest.approx([2 / 3, 0, 1, 0.5, 0])
    expected = task.scores(outcomes())
    monkeypatch.setattr(external, "loaded", None)
    assert task.scores(kept) == expected


def test_lower_is_better_and_values_are_chosen(tmp_path: Path) -> None:
    two = written(tmp_path, "two", '{"good": 1.0, "bad": [float(len(p)) for p in predictions]}')
    with pytest.raises(ConfigError, match=rf"^task\.metrics={two}: it computes good, bad; write .*:<value>\]$"):
        instruction(metrics=[two]).scores(outcomes())
    found = instruction(metrics=[f"{two}:bad:lower", f"{two}:good"], metric="two.bad").scores(outcomes())
    assert found["two.bad"].value == pytest.approx(np.mean([len(said) for said, _ in PAIRS]))
    assert not found["two.bad"].higher_is_better and found["two.good"].higher_is_better
    assert found["two.bad"].low < found["two.bad"].value < found["two.bad"].high


def test_numbers_and_labels_are_written_as_the_metric_asks(tmp_path: Path) -> None:
    kinds = {"number": "float32", "label": "int32"}
    for name, dtype in kinds.items():
        features = TEXTS.replace("string", dtype)
        kinds[name] = written(tmp_path, name, "{'first': float(predictions[0]), 'all': 1.0}", features) + ":first"
    found = external.scores(list(kinds.values()), outcomes([("2.5", "3"), ("1", "1")]))
    assert found["number.first"].value == 2.5
    found = external.scores([kinds["label"]], outcomes([("pos", "neg"), ("neg", "neg")]))
    assert found["label.first"].value == 1  # neg, pos
    with pytest.raises(ConfigError, match="could not convert string to float: 'pos'"):
        external.scores([kinds["number"]], outcomes([("pos", "neg")]))


def test_references_may_be_lists(tmp_path: Path) -> None:
    features = TEXTS.replace('"references": datasets.Value("string")', '"references": [datasets.Value("string")]')
    spec = written(tmp_path, "lists", "{'lists': float(references[0] == ['the cat ran'])}", f"[{features}]")
    assert external.scores([spec], outcomes())["lists"].value == 1


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("bleu", "write evaluate:<hub id>"),
        ("path:x@abc", "a local folder has no revision"),
        ("evaluate:", "write evaluate:<hub id>"),
    ],
)
def test_what_names_no_metric_is_refused_at_once(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^task\.metrics={spec}: {said}"):
        instruction(metrics=[spec])


def test_names_are_those_of_the_table() -> None:
    names = [external.parsed(spec).name for spec in ("evaluate:bleu", "evaluate:me/x@1f2e:y:lower", "path:a/b:c")]
    assert names == ["bleu", "x.y", "b.c"]
    with pytest.raises(ConfigError, match=r"^task\.metric=blue: no such metric; did you mean bleu\?"):
        instruction(metrics=["evaluate:bleu"], metric="blue")
    with pytest.raises(ConfigError, match="two metrics have the name bleu"):
        instruction(metrics=["evaluate:bleu", "evaluate:me/bleu"])
    with pytest.raises(ConfigError, match="language modelling has no answers"):
        LanguageModeling(data=DATA, columns={"text": "t"}, metrics=[WORD_F1])


def test_a_script_that_cannot_be_used_is_one_line_before_training(tmp_path: Path) -> None:
    splits = Splits([], [], [Item(str(n), {}, asked) for n, (_, asked) in enumerate(PAIRS)])
    broken = {
        "raises": (written(tmp_path, "raises", "1 / 0"), "cannot be computed: ZeroDivisionError: division by zero"),
        "imports": (written(tmp_path, "imports", "{}", imports="import not_there"), "cannot be loaded: .*not_there"),
        "nothing": (written(tmp_path, "nothing", "{}"), "it computes no number"),
        "other": (
            written(tmp_path, "other", "{}", 'datasets.Features({"sources": datasets.Value("string")})'),
            "it reads sources, a run has predictions and references",
        ),
    }
    for spec, said in broken.values():
        with pytest.raises(ConfigError, match=rf"^task\.metrics={spec}: {said}[^\n]*$"):
            check_metrics(instruction(metrics=[spec]), splits)
    check_metrics(instruction(metrics=[WORD_F1, DISTINCT]), splits)


def test_the_content_of_a_local_metric_counts_in_the_id(tmp_path: Path) -> None:
    spec = written(tmp_path, "mine", "{'mine': 1.0}")
    bare, first = task_identity(instruction()), task_identity(instruction(metrics=[spec]))
    assert "metrics" not in bare and str(tmp_path) not in json.dumps(first["metrics"])
    (tmp_path / "mine" / "mine.py").write_text("changed = True", encoding="utf-8")
    assert task_identity(instruction(metrics=[spec])) != first
    with pytest.raises(ConfigError, match=r"^task\.metrics\.0/gone/gone\.py=.*: there is no such file$"):
        task_identity(instruction(metrics=[f"path:{tmp_path}/gone"]))


def test_a_metric_of_the_hub_is_taken_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client is replaced: it gives a folder that has the commit for its name."""
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    written(tmp_path, "bleu", "{'bleu': 0.25}")
    (tmp_path / "bleu").rename(tmp_path / commit)
    asked: list[Any] = []

    def download(repository: str, **more: Any) -> str:
        asked.append((repository, more["repo_type"], more["revision"]))
        return str(tmp_path / commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    external._snapshot.cache_clear()
    spec = f"evaluate:bleu@{commit[:8]}"
    assert external.scores([spec], outcomes())["bleu"].value == 0.25
    assert asked == [("evaluate-metric/bleu", "space", commit[:8])]
    entry = external.described([spec], external.annotated([spec], outcomes()))["bleu"]
    assert (entry["from"], entry["revision"], list(entry["files"])) == (spec, commit, ["bleu.py"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("RepositoryNotFoundError", "the hub has no metric evaluate-metric/blue; is the name right"),
        ("RevisionNotFoundError", "evaluate-metric/blue has no revision None"),
        (
            "LocalEntryNotFoundError",
            "the hub cannot be reached and its cache has no copy; path:<folder> needs no network",
        ),
        ("HfHubHTTPError", "cannot be fetched from the hub: HfHubHTTPError: no"),
    ],
)
def test_a_hub_that_has_or_gives_none_is_one_line(error: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    raised: Any = getattr(errors, error)
    response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
    made = raised("no") if error == "LocalEntryNotFoundError" else raised("no", response=response)

    def download(repository: str, **more: Any) -> str:
        raise made

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    external._snapshot.cache_clear()
    with pytest.raises(ConfigError, match=rf"^task\.metrics=evaluate:blue: {said}"):
        external.scores(["evaluate:blue"], outcomes())


@pytest.mark.slow
def test_a_run_records_them_and_the_analysis_reads_them(data_folder: Path, llama_folder: Path, tmp_path: Path) -> None:
    chosen = ["model=custom", f"model.path={llama_folder}", *small_runs.task("instruction", data_folder)]
    metrics = [f"task.metrics=[{WORD_F1},{DISTINCT}]", "task.metric=word_f1"]
    folder, record = small_runs.run(tmp_path / "runs", *chosen, *metrics, "method=lora", "rank=4")
    assert record["status"] == "done", record["traceback"]
    assert {name: entry["interval"] for name, entry in record["metrics"].items()} == {
        "word_f1": "bootstrap over items",
        "distinct_words": "none: it is no mean of its items' values",
    }
    kept = read_items(folder / "items.parquet")["after"]["test"]
    score = record["scores"]["after"]["test"]["word_f1"]
    assert score["value"] == pytest.approx(np.mean([one.measured["word_f1"] for one in kept]))
    frame = pd.read_parquet(folder / "items.parquet").query("phase == 'after' and split == 'test'")
    rows = rows_of("word_f1", frame, score["value"], "here")
    assert metric_of("word_f1").statistic(rows, np.ones((1, len(rows))))[0] == pytest.approx(score["value"])


def test_a_regression_may_be_scored_so() -> None:
    task = Regression(data=DATA, columns={"text": "t", "label": "l"}, metrics=[WORD_F1])
    assert task.scores(outcomes([("1.5", "2"), ("2", "2")]))["word_f1"].value == 0.5
