"""What is recorded, and what stays, where something goes wrong."""

from __future__ import annotations

import errno
import gc
import os
import weakref
from pathlib import Path
from typing import Any

import pytest
import small_runs
from small_runs import run
from torch import nn

from harness.execution import pipeline
from harness.execution.execute import execute
from harness.storage.record import Status
from harness.storage.shared import SharedStore

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["checkpoint", "trained", "items", "baseline"])
def test_full_disk_fails_in_one_line(
    place: str, bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    from harness.methods.lora import LoRA
    from harness.storage.record import RunFolder
    from harness.training import trainer as training

    owner, name = {
        "checkpoint": (training, "save_state"),
        "trained": (LoRA, "save"),
        "items": (RunFolder, "write_items"),
        "baseline": (SharedStore, "write"),
    }[place]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        folder, record = run(tmp_path, *bert)
    assert (record["status"], record["reason"]) == ("failed", "no space left on the disk")
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.endswith(f"{folder.name}: failed: no space left on the disk")
    assert not list(folder.rglob("*.part"))  # what was half written is gone, so that there is room for the record
    _, record = run(tmp_path, *bert)
    assert (record["status"], len(record["attempts"])) == ("done", 2)


@pytest.mark.slow
def test_disk_too_full_even_for_the_record(
    bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from harness.storage.record import RunFolder

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = small_runs.configure(tmp_path, *bert)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write", full)
        assert execute(config) is Status.failed
    assert capfd.readouterr().err.strip().endswith("failed: no space left on the disk")
    assert execute(config) is Status.done


@pytest.mark.parametrize(
    "content", ['{"schema_version": 1, "id"', '{"schema_version": 99, "id": "", "status": "done", "config": {}}']
)
def test_record_that_cannot_be_trusted_is_reported_and_left(
    content: str, bert: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = small_runs.configure(tmp_path, *bert)
    folder = small_runs.folder_of(config)
    folder.mkdir()
    (folder / "record.json").write_text(content, encoding="utf-8")
    assert execute(config) is Status.failed
    assert str(folder / "record.json") in capfd.readouterr().err
    assert (folder / "record.json").read_text(encoding="utf-8") == content
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "record.json"]


def test_failure_of_any_kind_is_recorded(bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise LookupError("first line\nsecond line")

    monkeypatch.setattr(pipeline, "learn", broken)
    _, record = run(tmp_path, *bert)
    assert (record["status"], record["reason"]) == ("failed", "LookupError: first line")
    assert "second line" in record["traceback"]
    assert record["config"]["rank"] == 4 and record["versions"]


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_model_is_freed_after_its_run(
    fails: bool, bert: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, not when the garbage collector comes by: two large models do not fit side by side."""
    from harness.methods.lora import LoRA

    original, models = LoRA.attach, []

    def remembered(self: LoRA, backbone: Any) -> nn.Module:
        model = original(self, backbone)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(LoRA, "attach", remembered)
    if fails:
        monkeypatch.setattr(pipeline, "keep", lambda *_: 1 / 0)
    config = small_runs.configure(tmp_path, *bert)
    gc.disable()
    try:
        assert execute(config) is (Status.failed if fails else Status.done)
        assert [model() for model in models] == [None]
    finally:
        gc.enable()
