"""Nothing wrong is written, nothing is left of what failed, nothing is overwritten unasked."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_runs import ask, close_enough, logits, open_adapter

from harness import export
from harness.errors import AssetError, ConfigError, RecordError

pytestmark = pytest.mark.usefixtures("quick")


def test_export_that_differs_is_refused(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("decoder", "lora")
    merge = type(run.config.method).merge

    def wrong(self: Any, model: Any) -> Any:
        merged = merge(self, model)
        with torch.no_grad():
            merged.lm_head.weight.mul_(1.01)
        return merged

    monkeypatch.setattr(type(run.config.method), "merge", wrong)
    with pytest.raises(RecordError, match=r"is not the tuned model: .* 1\.0e-02 of max \|logit\|, at most 1e-03"):
        export.export(ask(run, tmp_path / "to", merge=True))
    assert not list(tmp_path.iterdir())


def test_full_disk_is_one_line_and_leaves_nothing(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("decoder", "lora")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(run.config.method), "export_adapter", full)
    with pytest.raises(AssetError, match="no space left on the disk; nothing was written"):
        export.export(ask(run, tmp_path / "to"))
    assert not list(tmp_path.iterdir())


def test_full_disk_as_safetensors_reports_it(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    run = trained("decoder", "lora")

    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(type(run.config.method), "export_adapter", full)
    with pytest.raises(AssetError, match="no space left on the disk; nothing was written"):
        export.export(ask(run, tmp_path / "to"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_only_an_earlier_export_is_overwritten_and_only_when_asked(trained: Any, tmp_path: Path) -> None:
    run, other = trained("decoder", "lora"), trained("decoder", "adapter")
    to = tmp_path / "to"
    to.mkdir()
    export.export(ask(run, to))
    with pytest.raises(ConfigError, match="earlier export; overwrite=true replaces it"):
        export.export(ask(other, to))
    export.export(ask(other, to, overwrite=True))
    assert close_enough(other, logits(open_adapter(other, to)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my thesis")
    with pytest.raises(ConfigError, match="holds files that no export wrote"):
        export.export(ask(run, tmp_path / "mine", overwrite=True))
    with pytest.raises(ConfigError, match="is a file"):
        export.export(ask(run, tmp_path / "mine" / "README.md", overwrite=True))
    assert (tmp_path / "mine" / "README.md").read_text() == "my thesis"


def test_failed_overwrite_leaves_the_earlier_export(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("decoder", "lora")
    to = export.export(ask(run, tmp_path / "to"))
    monkeypatch.setattr(export, "tolerance", lambda config: -1.0)
    with pytest.raises(RecordError, match="is not the tuned model"):
        export.export(ask(run, to, overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["to"]
    assert close_enough(run, logits(open_adapter(run, to)))
