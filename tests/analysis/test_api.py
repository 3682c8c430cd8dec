"""The calls of Python and the command lines do the same; the notebook's cells run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import call
from made_runs import make_sweep

import analysis.compare
import harness.run  # noqa: F401  # registers with Hydra once, which `call` would undo
from analysis import api
from harness.errors import ConfigError, HarnessError

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOK = ROOT / "docs/notebooks/compare.ipynb"
TINY = [
    *("model=bert_tiny", "task=trec", "method=lora,head_only", "rank=4", "seed=0,1", "train.max_steps=2"),
    *("task.max_train=400", "task.max_validation=8", "task.max_test=24", "forgetting=none", "train.save_steps=0"),
    *("train.per_device_train_batch_size=4", "tracker=none"),
]


def cells() -> dict[str, str]:
    """Return the notebook's code cells by their ids."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert "`tests/analysis/test_api.py` runs all cells, with smaller settings" in NOTEBOOK.read_text(encoding="utf-8")
    return {cell["id"]: "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"}


def test_compare_returns_what_the_command_writes(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs", ("lora", "full"))
    found = api.compare(tmp_path / "runs", outcomes="score", out=tmp_path / "called")
    ended = call(analysis.compare.COMMAND.main, tmp_path / "runs", "outcomes=score", f"out={tmp_path / 'written'}")
    assert ended.returncode == 0 and len(found) > 0
    for folder in ("called", "written"):
        written = pd.read_csv(tmp_path / folder / "comparisons.csv")
        assert list(written["difference"]) == pytest.approx(list(found["difference"]))
    assert set(found["outcome"]) == {"score"}


def test_read_filters_and_warns_of_what_is_damaged(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora", "full"))
    assert set(api.read(tmp_path, where=["method=lora"])["method"]) == {"lora"}
    broken = next(tmp_path.rglob("record.json"))
    broken.write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match=broken.parent.name):
        api.read(tmp_path)


def test_the_page_on_python_shows_options_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its example, after a sweep that is there already."""
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    source = page.split("```python\n")[1].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    make_sweep("runs", ("full", "lora", "prefix"))
    names: dict[str, Any] = {}
    lines = source.splitlines()
    exec("\n".join(line for line in lines if "sweep(" not in line).replace("(runs", '("runs"'), names)
    assert set(names["table"]["method"]) == {"lora"} and names["page"].is_file() and names["files"]
    assert set(names["found"]["second"]) | set(names["found"]["first"]) == {"full", "lora r8", "prefix"}


def test_an_unknown_option_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^agianst=full: no such option; did you mean against\?"):
        api.compare(tmp_path, agianst="full")
    with pytest.raises(ConfigError, match=r"^runs=.*/nothing: there is no such folder$"):
        api.figures(tmp_path / "nothing")


@pytest.mark.slow
def test_a_mistake_in_a_sweep_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"^method=lroa: no such method; did you mean lora\?"):
        api.sweep("method=lroa", output_dir=tmp_path)
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.slow
def test_the_notebook_runs_from_sweep_to_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells one after the other, on a tiny model: the settings' cell alone is another."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    def run() -> None:
        for name, source in cells().items():
            exec(compile(source, name, "exec"), names)
            if name == "settings":
                names["OVERRIDES"] = TINY

    ended = call(run, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert len(names["table"]) == 4 and set(names["table"]["method"]) == {"lora", "head_only"}
    assert {"first", "second", "difference", "result"} <= set(names["found"].columns)
    assert names["page"].is_file() and all(file.is_file() for file in names["files"])
    shutil.rmtree(tmp_path / "out")


def test_the_notebook_uses_the_five_calls_and_nothing_else_of_the_project() -> None:
    imported = [line for source in cells().values() for line in source.splitlines() if "import" in line]
    assert imported == ["from analysis.api import compare, figures, read, report, sweep"]
    assert all(callable(getattr(api, name)) for name in ("compare", "figures", "read", "report", "sweep"))
