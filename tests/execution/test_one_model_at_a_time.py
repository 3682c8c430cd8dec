"""The untouched model is not held beside the quantised one: what measures the base is freed before that is loaded."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import small_runs
from transformers import PreTrainedModel

from harness import models
from harness.execution.execute import execute

pytestmark = pytest.mark.usefixtures("quick")


def watched_loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets, at each loading of a model's layers, how many loaded before are still there."""
    made: list[weakref.ref[PreTrainedModel]] = []
    beside: list[int] = []
    original = models._load

    def load(*arguments: Any) -> Any:
        gc.collect()
        there = sum(one() is not None for one in made)
        found = original(*arguments)
        if found[0].config.num_hidden_layers:
            beside.append(there)
            made.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr(models, "_load", load)
    return beside


@pytest.mark.parametrize("probes", ["none", "default"])
def test_an_encoder_is_loaded_alone(
    probes: str, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetting = small_runs.SMALL_PROBES if probes == "default" else ()
    task = [*small_runs.task("classification", data_folder), *forgetting]
    config = small_runs.configure(tmp_path, "model=bert_tiny", "method=qlora", "rank=2", *task)
    beside = watched_loads(monkeypatch)
    execute(config)
    assert len(beside) >= 3, "the untouched one, one to find the new head's modules, the quantised one"
    assert set(beside) == {0}


@pytest.mark.parametrize("probes", ["none", "default"])
def test_a_decoder_is_loaded_alone(
    probes: str, llama_folder: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgetting = small_runs.SMALL_PROBES if probes == "default" else ()
    task = [*small_runs.task("classification", data_folder), *forgetting]
    model = ["model=custom", f"model.path={llama_folder}"]
    config = small_runs.configure(tmp_path, *model, "method=qlora", "rank=2", *task)
    beside = watched_loads(monkeypatch)
    execute(config)
    assert len(beside) >= 2, "the untouched one and the quantised one"
    assert set(beside) == {0}
