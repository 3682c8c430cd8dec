"""A page of made runs, with text in them that means harm, and a real browser without a window to open it in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_page import EVIL, KOREAN, Opened, opening, program, required
from made_runs import Made, make_run, make_search_run, make_sweep, search_record

from analysis.records import read_runs
from analysis.views.report.page import page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

METHODS = ("lora", "full", "bitfit")


def edit(folder: Path, **changes: Any) -> None:
    """Change top-level keys of a record on disk."""
    path = folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def made(method: str, rank: int, rate: float, seed: int) -> Made:
    """Return results that differ between runs, one with intruders, one with harm in its samples."""
    score = 0.5 + 0.1 * METHODS.index(method) + 0.02 * seed + 0.01 * (rate > 1e-3)
    sample = f"{EVIL} {KOREAN}" if method == "lora" else "what is this ?"
    return Made(accuracy=score, sample=sample, intruders=14 if method == "lora" else None, trainable=1000 * rank + 7)


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 12 runs that are done, one that failed, one that cannot apply and a damaged one."""
    folder = tmp_path_factory.mktemp("runs")
    paths = make_sweep(folder, METHODS, rates=(1e-3, 3e-3), seeds=(0, 1), made=made)
    make_run(folder, "method=prompt", made=Made(status="failed", reason=f"RuntimeError: {EVIL}"))
    make_run(folder, "method=prefix", made=Made(status="not_applicable", reason="needs a decoder"))
    record = json.loads((paths[-1] / "record.json").read_text(encoding="utf-8"))
    record["config"]["model"]["name"] = f"{EVIL} {KOREAN}"
    edit(paths[-1], config=record["config"])
    (folder / "broken").mkdir()
    (folder / "broken" / "record.json").write_text('{"id": "bro', encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def page_file(runs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of those runs on disk."""
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(page(read_runs(runs_folder), f"Runs {EVIL}"), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def searched_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two methods at searched rates, one whose search ended too soon, and a run of a search."""
    folder = tmp_path_factory.mktemp("searched")
    found = search_record({1e-3: 0.7, 1e-2: None, 1e-4: 0.6}, 1e-3)
    early = search_record(
        {1e-3: 0.5, 1e-4: 0.6}, 1e-4, warning="search.max_runs=2 reached: a smaller rate may be better"
    )
    for seed in (0, 1):
        make_run(folder, "method=lora", "rank=8", seed=seed, rate=1e-3, search=found, made=Made(accuracy=0.9))
        make_run(folder, "method=full", seed=seed, rate=1e-4, search=early, made=Made(accuracy=0.5))
    make_search_run(folder, "method=lora", "rank=8", rate=1e-3)
    return folder


@pytest.fixture(scope="session")
def searched_file(searched_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of those runs on disk."""
    path = tmp_path_factory.mktemp("searched_report") / "index.html"
    path.write_text(page(read_runs(searched_folder), "Searched"), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of this machine's browser; without one the test is skipped, and under CI it fails."""
    return required(program("chromium", "chromium-browser", "google-chrome"), os.environ)


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """Start the browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, page_file: Path) -> Iterator[Opened]:
    """Open the page by its file, as a double-click does; afterwards it must have said and asked for nothing."""
    with opening(browser, page_file) as found:
        yield found
