"""The models that whole runs train."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_runs


@pytest.fixture
def bert(data_folder: Path) -> list[str]:
    return ["model=bert_tiny", *small_runs.task("classification", data_folder), "rank=4"]


@pytest.fixture
def llama(data_folder: Path, llama_folder: Path) -> list[str]:
    return ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder), "rank=4"]
