"""Records: read only when sound, written whole, and held by one process at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RecordError
from harness.storage.outcomes import parquet, read_items
from harness.storage.record import RunFolder, Status, comparable, read_record
from harness.table import row
from harness.tasks.base import Outcome

SOUND: dict[str, Any] = {
    "schema_version": 1,
    "id": "lora-r8-abc",
    "status": "running",
    "reason": None,
    "rank": 8,
    "config": {"method": {"name": "lora"}, "output_dir": "runs"},
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "lora-r8-abc")


def test_record_comes_back(folder: RunFolder) -> None:
    assert folder.read() is None
    assert folder.status() is None
    folder.write(SOUND)
    assert folder.read() == SOUND
    assert folder.status() is Status.running


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "damaged"),
        (json.dumps(SOUND)[:40], "damaged"),
        ("[]", "lacks config, id, schema_version, status"),
        ("null", "lacks config"),
        (b"\xff\xfe", "damaged"),
        (json.dumps({key: SOUND[key] for key in ("id", "status", "config")}), "lacks schema_version"),
        (json.dumps(SOUND | {"status": "almost"}), "its status is 'almost'"),
        (json.dumps(SOUND | {"config": "lora"}), "its config a str"),
        (json.dumps(SOUND | {"schema_version": "1"}), "its schema_version is '1'"),
        (json.dumps(SOUND | {"schema_version": 3, "status": "almost"}), "schema 3 is newer than 2"),
        (json.dumps(SOUND | {"id": "lora-r8-other"}), "another run's, lora-r8-other"),
    ],
)
def test_damaged_record_is_reported_and_left_alone(content: str | bytes, reason: str, folder: RunFolder) -> None:
    path = folder.path / "record.json"
    folder.path.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    with pytest.raises(RecordError, match=reason) as error:
        folder.status()
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_missing_record_is_said_to_be_missing(folder: RunFolder) -> None:
    with pytest.raises(RecordError, match="no record"):
        read_record(folder.path)


def test_table_shows_runs_without_results(folder: RunFolder) -> None:
    assert row(folder.path)[4] == "no record"
    folder.write(SOUND)
    assert row(folder.path)[:5] == ["lora", "8", "-", "", "running"]
    assert "the same command resumes it" in row(folder.path)[-1]
    folder.write(SOUND | {"status": "failed", "reason": "the loss is nan at step 3"})
    assert row(folder.path)[4] == "failed" and row(folder.path)[-1].endswith("the loss is nan at step 3")
    folder.write(SOUND | {"status": "not_applicable", "reason": "no biases"})
    assert row(folder.path)[4] == "n/a" and row(folder.path)[-1].endswith("no biases")
    (folder.path / "record.json").write_text("{", encoding="utf-8")
    assert row(folder.path)[4] == "damaged"


def test_comparison_leaves_out_clock_machine_and_place() -> None:
    other = SOUND | {"seconds": {"train": 1}, "commit": "f", "machine": {}, "attempts": 3}
    other["config"] = SOUND["config"] | {"output_dir": "elsewhere"}
    assert comparable(other) == comparable(SOUND)
    assert comparable(SOUND | {"rank": 9}) != comparable(SOUND)


def test_one_process_at_a_time(folder: RunFolder) -> None:
    with folder.lock(wait=False) as mine:
        assert mine
        with RunFolder(folder.path.parent, folder.id).lock(wait=False) as also_mine:
            assert not also_mine
    with folder.lock(wait=True) as mine:
        assert mine


def test_lock_is_free_after_an_error(folder: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt), folder.lock(wait=False):
        raise KeyboardInterrupt
    with folder.lock(wait=False) as mine:
        assert mine


def test_history_is_cut_back_to_a_step(folder: RunFolder) -> None:
    folder.path.mkdir()
    for step in (1, 2, 3):
        folder.append_history({"step": step, "loss": float("nan") if step == 2 else 0.5})
    path = folder.path / "history.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 2, "lo', encoding="utf-8")
    folder.trim_history(2)
    assert path.read_text(encoding="utf-8") == '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n'
    folder.trim_history(0)
    assert path.read_text(encoding="utf-8") == ""


def test_items_come_back(folder: RunFolder) -> None:
    before = {"validation": [Outcome("a", "NUM", "LOC", 0.0, 1.25, 1)], "test": [Outcome("b", "", "ü\n", 1.0)]}
    after = {"test": [Outcome("b", "x", "ü\n", 0.5, 3.0, 2)]}
    folder.write_items({"before": before, "after": after})
    found = read_items(folder.path / "items.parquet")
    assert repr(found) == repr({"before": before, "after": after})  # repr: NaN equals nothing


def test_items_of_no_rows_can_be_written() -> None:
    assert parquet([])[:4] == b"PAR1"
