"""The models that tests of training train."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_runs


@pytest.fixture
def bert(data_folder: Path) -> list[str]:
    """Return the overrides of a classification run on BERT-tiny."""
    return ["model=bert_tiny", *small_runs.task("classification", data_folder), "rank=4"]


@pytest.fixture
def gpt2(data_folder: Path, gpt2_folder: Path) -> list[str]:
    """Return the overrides of a classification run on a tiny GPT-2."""
    model = ["model=custom", f"model.path={gpt2_folder}"]
    return [*model, *small_runs.task("classification", data_folder), "rank=4"]
