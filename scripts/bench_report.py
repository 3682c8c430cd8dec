"""Measure the page of many runs: its size, how long it takes to make, and how long to open in Chromium.

    python scripts/bench_report.py              # 500 made runs, opened five times
    python scripts/bench_report.py runs/        # your own

Made runs are copies of one folder's runs under other ids and seeds, or of made ones where none is given. Opened is the
time from the address to a leaderboard that can be sorted, by the browser's own clock; beside it the processor time of
the page's thread, which other work on the machine does not lengthen. The first chart is scrolled to, then drawn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from harness.storage.privacy import expanded

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "analysis"), str(Path(__file__).parents[1] / "tests")]

READY = "performance.getEntriesByName('ready')[0].startTime"
DRAWN = "performance.getEntriesByName('drawn')[0]?.startTime ?? null"
METHODS = ("full", "lora", "rslora", "qlora", "bitfit", "prefix", "prompt", "adapter", "head_only")


def made_runs(folder: Path, count: int) -> None:
    """Write this many runs: a made one of each method, and copies of it with other ids, seeds and scores."""
    from made_runs import Made, make_run

    folders = [make_run(folder, f"method={method}", made=Made(intruders=7)) for method in METHODS]
    for number in range(count - len(folders)):
        source = folders[number % len(folders)]
        copy = folder / f"{source.name}-{number}"
        shutil.copytree(source, copy)
        record = json.loads((copy / "record.json").read_text(encoding="utf-8"))
        record["id"], record["config"]["seed"] = copy.name, 1 + number // len(folders)
        score = record["scores"]["after"]["test"][record["metric"]]
        score["value"] = score["low"] + (number % 97) / 97 * (score["high"] - score["low"])
        (copy / "record.json").write_text(json.dumps(record), encoding="utf-8")


def opened(file: Path, times: int) -> dict[str, list[float]]:
    """Return the seconds of each opening."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {name: [] for name in ("leaderboard stands", "its processor", "first chart drawn")}
    with sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(times):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto(file.as_uri())
            page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
            metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
            page.locator("#charts").evaluate("section => section.scrollIntoView({behavior: 'instant'})")
            page.wait_for_selector("#explorer[data-drawn] svg", timeout=60_000)
            seconds = (page.evaluate(READY) / 1000, metrics["TaskDuration"], page.evaluate(DRAWN) / 1000)
            for name, value in zip(found, seconds, strict=True):
                found[name].append(value)
            page.close()
        browser.close()
    return found


def main() -> None:
    """Make, open, print."""
    from analysis.records import read_runs
    from analysis.views.report.page import page

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=expanded, help="run folders; made ones unless given")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.runs or Path(folder) / "runs"
        if arguments.runs is None:
            made_runs(source, arguments.count)
        start, cpu = time.perf_counter(), time.process_time()
        runs = read_runs(source)
        file = Path(folder) / "index.html"
        file.write_text(page(runs, "Benchmark"), encoding="utf-8")
        spent = time.perf_counter() - start, time.process_time() - cpu
        size = f"{len(runs.table)} runs, {file.stat().st_size / 1e6:.1f} MB"
        print(f"{size}, made in {spent[0]:.0f} s ({spent[1]:.0f} s of processor)")
        for name, seconds in opened(file, arguments.times).items():
            print(f"{name}: median {statistics.median(seconds):.2f} s (from {min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
