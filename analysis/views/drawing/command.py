"""From run folders to figures: what was drawn, what was skipped and why, a line each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

import analysis.views.figures
from analysis.errors import AnalysisError
from analysis.figures import Settings
from analysis.records import read_runs
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.page import Page, every_page
from analysis.views.drawing.picture import draw
from analysis.views.drawing.style import COLUMN, PAGE, Look
from analysis.views.table import filtering
from harness.errors import HarnessError
from harness.storage.files import require_writable
from harness.storage.privacy import expanded


def figures(names: tuple[str, ...] = ()) -> list[Figure]:
    """Return the figures of these names, all unless some are named; raise :class:`ConfigError` for an unknown one."""
    FIGURES.discover(analysis.views.figures)
    return [FIGURES[name]() for name in names or FIGURES.names()]


def draw_all(settings: Settings) -> list[Path]:
    """Draw every figure of every model and task, print a line for each; return the files that were written."""
    chosen = figures(settings.only)
    runs = read_runs(*settings.runs)
    out = expanded(settings.out)
    require_writable(out, 2**20)
    for problem in runs.problems:
        print(f"left out: {problem}")
    look, written = (
        Look.of(runs.table),
        list[Path](),
    )  # before the filter: a method keeps its colour whatever else is shown
    for page in _pages(filtering.chosen(runs.table, settings.where)):
        print(f"{page.model}, {page.task}: {len(page.table)} runs")
        for warning in () if page.several else page.effects.warnings:
            print(f"  unequal: {warning}")
        for figure in (one for one in chosen if one.several == page.several):
            written += _draw(figure, page, look, settings)
    return written


def _pages(table: pd.DataFrame) -> list[Page]:
    found = list(every_page(table))
    if not found:
        counts = table["status"].value_counts().to_dict()
        how = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in counts.items())
        raise AnalysisError(
            f"no run has finished ({how}), so there is nothing to draw; the same training command retries what failed"
        )
    return found


def _draw(figure: Figure, page: Page, look: Look, settings: Settings) -> list[Path]:
    """Draw one figure of one page; what it lacks, or a damaged file, is a line and the rest goes on."""
    try:
        data = figure.data(page)
    except HarnessError as error:
        print(f"  {figure.name}: skipped: {error}")
        return []
    if data.empty:
        print(f"  {figure.name}: skipped: needs {figure.needs}")
        return []
    sized = replace(look, width={"column": COLUMN, "page": PAGE}.get(settings.size, figure.width))
    stem = Path(expanded(settings.out)) / f"{figure.name}-{page.name}"
    written = draw(figure, page, data, sized).save(stem, settings.formats)
    print(f"  {figure.name}: {written[0]}")
    return written
