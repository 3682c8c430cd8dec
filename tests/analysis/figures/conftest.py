"""One made sweep for all tests of figures: two methods, two ranks, two rates, two seeds, analysed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from figure_runs import RATES, made
from made_runs import make_sweep

from analysis.records import read_runs
from analysis.views.drawing.page import Page, pages


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the runs."""
    folder = tmp_path_factory.mktemp("sweep")
    make_sweep(folder, ("lora",), (2, 8), RATES, (0, 1), made, ("train.eval_steps=2",))
    make_sweep(folder, ("full",), (2,), RATES, (0, 1), made, ("train.eval_steps=2",))
    return folder


@pytest.fixture(scope="session")
def page(sweep: Path) -> Page:
    """Return the one page that the runs make."""
    (only,) = pages(read_runs(sweep).table)
    return only
