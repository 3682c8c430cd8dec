"""The untouched model's answers: computed once for all runs that share them, and never trusted where damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import run
from torch import nn

from harness.execution.evaluate import Evaluator
from harness.storage.record import Status
from harness.storage.shared import SharedStore

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.slow
def test_base_is_evaluated_once_for_all_that_share_it(
    bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, labels = Evaluator.answer, []

    def counted(self: Evaluator, model: nn.Module, objective: Any, questions: Any, label: str) -> Any:
        labels.append(label)
        return original(self, model, objective, questions, label)

    monkeypatch.setattr(Evaluator, "answer", counted)
    records = [run(tmp_path, *bert, f"method={name}")[1] for name in ("full", "qlora")]
    assert labels.count("base") == 1
    assert len({json.dumps(record["scores"]["before"]) for record in records}) == 1
    for different in ("seed=1", "train.bf16=true", "task.max_test=20"):  # another head, precision, items
        run(tmp_path, *bert, different)
    assert labels.count("base") == 4


def test_damaged_baseline_is_computed_again(bert: list[str], tmp_path: Path) -> None:
    _, first = run(tmp_path, *bert)
    (file,) = (tmp_path / ".base").glob("*/items.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    _, second = run(tmp_path, *bert, "method=full")
    assert second["status"] == Status.done
    assert second["scores"]["before"] == first["scores"]["before"]
    assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_damaged_baseline_is_not_trusted(damage: bytes, tmp_path: Path) -> None:
    baseline = SharedStore(tmp_path, "answers", {"model": "a"})
    baseline.write({"test": []})
    assert baseline.read() == ({}, {})
    (baseline.path / "items.parquet").write_bytes(damage)
    assert baseline.read() is None


def test_baseline_of_other_columns_is_not_trusted(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    baseline = SharedStore(tmp_path, "answers", {"model": "a"})
    assert baseline.read() is None
    baseline.write({})
    pq.write_table(pa.Table.from_pylist([{"split": "test", "other": 1}]), baseline.path / "items.parquet")
    assert baseline.read() is None
