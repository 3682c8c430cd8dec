"""What tests of spectra share: tiny models on disk, an independent count, matrices of every difficult kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("analysis", "methods", "forgetting", "")]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Two threads wait for each other longer than they compute; decompositions are kept with the test's own files."""
    monkeypatch.setenv("PEFT_HARNESS_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)
