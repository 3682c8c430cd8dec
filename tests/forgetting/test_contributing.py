"""The probe that CONTRIBUTING.md adds, taken from there and run."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import small_runs
from probing import run

from harness.forgetting.base import PROBES
from harness.storage.record import Status

pytestmark = pytest.mark.usefixtures("quick")
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
def test_probe_of_the_guide_is_complete(
    llama_folder: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n([^`]*PROBES\.register.*?)```", guide, re.DOTALL)
    (tmp_path / "letters_probe.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(PROBES, "_classes", dict(PROBES._classes))
    probe = importlib.import_module("letters_probe").Letters()
    overrides = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    config = small_runs.configure(tmp_path, *overrides)
    _, record = run(replace(config, forgetting=replace(config.forgetting, probes={"letters": probe})))
    assert record["status"] == Status.done, record["traceback"]
    assert record["forgetting"]["letters"]["metrics"]["share"]["after"]["n"] == 4
