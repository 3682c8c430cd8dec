"""A figure of a page, drawn: its heading, its files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.figure import Figure
from analysis.drawing.fonts import families
from analysis.drawing.page import Page
from analysis.drawing.settings import FORMATS
from analysis.drawing.style import RC, Look, wrapped
from harness.storage.files import write_bytes

TIMELESS: dict[str, dict[str, str | None]] = {
    "png": {"Software": "peft-harness"},
    "pdf": {"Creator": "peft-harness", "Producer": "peft-harness", "CreationDate": None},
    "svg": {"Creator": "peft-harness", "Date": None},
}
"""Without dates the same runs give the same bytes, and a repository shows a changed figure only where it changed."""
INTERVALS = {"seeds": "95 % of the mean over seeds", "items": "95 % over items, one seed"}


def heading(figure: Figure, page: Page, data: pd.DataFrame, inches: float) -> str:
    """Return what stands above a figure: what it is, of what, how many seeds and runs, what the bars are."""
    ids = {one for cell in data["ids"] for one in str(cell).split()}
    used = page.table[page.table["id"].isin(ids)]
    searched = data["search_seed"].dropna() if "search_seed" in data else []  # no runs of the page
    seeds = len({*used["seed"], *map(int, searched)})
    parts = [page.model, page.task, _count(seeds, "seed"), _count(len(ids), "run")]
    parts += ["learning rates chosen by validation"] if figure.chosen and page.chose(ids) else []
    note = _note(figure, data)
    lines = [wrapped(figure.title.split(), inches, " "), wrapped(parts, inches)]
    return "\n".join([*lines, wrapped(note.split(), inches, " ")] if note else lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _note(figure: Figure, data: pd.DataFrame) -> str:
    kinds = dict.fromkeys(data["interval"]) if "interval" in data else {}
    told = [INTERVALS[kind] for kind in kinds if kind in INTERVALS]
    told += [figure.intervals] if figure.intervals else []
    return f"intervals: {'; '.join(told)}" if told else ""


@dataclass(frozen=True)
class Picture:
    """A drawn figure, the frame it shows, and the style that it must be written with."""

    canvas: Canvas
    data: pd.DataFrame
    style: dict[str, Any]

    def save(self, stem: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Write the picture in each format and its data as CSV, each file whole or not at all; return their paths."""
        with mpl.rc_context(self.style):
            written = [_write(stem, kind, self._bytes(kind)) for kind in formats]
        return [*written, _write(stem, "csv", self.data.to_csv(index=False, lineterminator="\n").encode())]

    def _bytes(self, kind: str) -> bytes:
        held = io.BytesIO()
        self.canvas.savefig(held, format=kind, metadata=TIMELESS[kind])
        return held.getvalue()


def draw(figure: Figure, page: Page, data: pd.DataFrame, look: Look) -> Picture:
    """Return the figure, drawn under its heading."""
    size = figure.size(data)
    title = heading(figure, page, data, size[0])
    style = RC | {"font.family": families(title + letters(data))}
    with mpl.rc_context(style):
        canvas = Canvas(figsize=size, layout="constrained")
        figure.draw(data, canvas, look)
        canvas.suptitle(title, x=0.01, ha="left", linespacing=1.35)
    return Picture(canvas, data, style)


def letters(data: pd.DataFrame) -> str:
    """Return every letter of a frame's text."""
    columns = [data[name] for name in data.columns if not pd.api.types.is_numeric_dtype(data[name])]
    return "".join(sorted({letter for column in columns for cell in column for letter in str(cell)}))


def _write(stem: Path, kind: str, content: bytes) -> Path:
    path = stem.with_name(f"{stem.name}.{kind}")  # not with_suffix: a model's name may have a dot
    write_bytes(path, content)
    return path
