"""Metrics from weighted items against the tasks' own code on the items drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

import harness.tasks
from analysis.errors import AnalysisError
from analysis.records.metrics import METRICS, rows_of
from harness.tasks.base import TASKS, Outcome, Task
from harness.tasks.classification import Classification
from harness.tasks.instruction import Instruction
from harness.tasks.language_modeling import LanguageModeling
from harness.tasks.regression import Regression

RNG = np.random.default_rng(0)
N = 60


def _labelled() -> list[Outcome]:
    pairs = zip(RNG.choice(["a", "b", "c"], N), RNG.choice(["a", "b", "c", "d"], N), strict=True)
    return [Outcome(f"{i}", str(p), str(t), float(p == t)) for i, (t, p) in enumerate(pairs)]


def _numbers() -> list[Outcome]:
    values = RNG.normal(size=(N, 2)).round(1)
    return [Outcome(f"{i}", str(p), str(t), float(p)) for i, (t, p) in enumerate(values.tolist())]


def _blocks() -> list[Outcome]:
    return [Outcome(f"{i}", "", "", 0.0, float(loss), 20 + i) for i, loss in enumerate(RNG.uniform(30, 90, N))]


def _texts() -> list[Outcome]:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "so", "did", "the", "dog"]
    made = [(" ".join(RNG.choice(words, 4)), " ".join(RNG.choice(words, 5))) for _ in range(N)]
    return [Outcome(f"{i}", one, other, float(one == other)) for i, (one, other) in enumerate(made)]


def _task(kind: type[Task], **fields: object) -> Task:
    task = kind.__new__(kind)
    task.__dict__ |= fields
    return task


CASES = {
    "accuracy": (_labelled, _task(Classification, labels=dict.fromkeys("abcd", ""))),
    "macro_f1": (_labelled, _task(Classification, labels=dict.fromkeys("abcd", ""))),
    "pearson": (_numbers, _task(Regression)),
    "spearman": (_numbers, _task(Regression)),
    "perplexity": (_blocks, _task(LanguageModeling)),
    "exact_match": (_texts, _task(Instruction)),
    "rouge_l": (_texts, _task(Instruction)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_resample_by_weights_is_the_tasks_score_of_the_items_drawn(name: str) -> None:
    make, task = CASES[name]
    outcomes = make()
    whole = task.score(outcomes)[name].value
    rows = rows_of(name, pd.DataFrame([vars(one) for one in outcomes]), whole, "here")
    for _ in range(3):
        drawn = RNG.integers(0, N, N)
        weights = np.bincount(drawn, minlength=N)[None].astype(float)
        expected = task.score([outcomes[i] for i in drawn])[name].value
        assert METRICS[name].statistic(rows, weights)[0] == pytest.approx(expected, rel=1e-9)
    low, high = METRICS[name].bounds
    assert low <= whole <= high


def test_every_metric_of_every_task_is_known() -> None:
    TASKS.discover(harness.tasks)
    assert {metric for name in TASKS.names() for metric in TASKS[name].own_metrics} <= set(METRICS)


def test_macro_f1_is_scikit_learns() -> None:
    outcomes = _labelled()
    expected = f1_score([o.target for o in outcomes], [o.prediction for o in outcomes], average="macro")
    assert rows_of("macro_f1", pd.DataFrame([vars(one) for one in outcomes]), expected, "here").shape == (N, 2)


def test_items_of_another_run_are_refused() -> None:
    frame = pd.DataFrame([vars(one) for one in _labelled()])
    with pytest.raises(AnalysisError, match="the items give accuracy"):
        rows_of("accuracy", frame, 0.999, "here")
    with pytest.raises(AnalysisError, match="cannot be computed"):
        rows_of("pearson", frame, 0.5, "here")
