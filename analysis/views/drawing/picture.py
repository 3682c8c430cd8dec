"""A figure of a page, drawn: its heading, its specification, its files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures import FORMATS
from analysis.views.drawing import fonts
from analysis.views.drawing.figure import Figure
from analysis.views.drawing.page import Page, counted
from analysis.views.drawing.style import LIGHT, Look, config, wrapped
from harness.storage.files import write_bytes

VERSION = "6.4"
"""Vega-Lite, of what Altair writes, of the converter, and of the script on the page; a test holds them together."""
PPI = 220
INTERVALS = {"seeds": "95 % of the mean over seeds", "items": "95 % over items, one seed"}


def heading(figure: Figure, page: Page, data: pd.DataFrame) -> list[str]:
    """Return what is said of a figure: of what it is, how many seeds and runs, what the bars and other marks are."""
    ids = {one for cell in data["ids"] for one in str(cell).split()}
    used = page.table[page.table["id"].isin(ids)]
    searched = data["search_seed"].dropna() if "search_seed" in data else []  # no runs of the page
    seeds = len({*used["seed"], *map(int, searched)})
    parts = [page.model, page.task, counted(seeds, "seed"), counted(len(ids), "run")]
    parts += ["learning rates chosen by validation"] if figure.chosen and page.chose(ids) else []
    return parts + _notes(figure, data)


def _notes(figure: Figure, data: pd.DataFrame) -> list[str]:
    kinds = dict.fromkeys(data["interval"]) if "interval" in data else {}
    told = [INTERVALS[kind] for kind in kinds if kind in INTERVALS]
    told += [figure.intervals] if figure.intervals else []
    return [f"intervals: {'; '.join(told)}"] * bool(told) + [figure.marks] * bool(figure.marks)


@dataclass(frozen=True)
class Picture:
    """A figure's specification, which is whole and draws the same anywhere, and the frame that it shows."""

    spec: dict[str, Any]
    svg: str
    data: pd.DataFrame

    def save(self, stem: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Write the picture in each format, its data as CSV and its specification as JSON; return their paths.

        Each file is whole or not there at all, and the same runs give the same bytes.
        """
        written = [_write(stem, kind, self._bytes(kind)) for kind in formats]
        table = self.data.to_csv(index=False, lineterminator="\n")
        text = json.dumps(self.spec, ensure_ascii=False, indent=1)
        return [*written, _write(stem, "csv", table.encode()), _write(stem, "json", text.encode())]

    def _bytes(self, kind: str) -> bytes:
        import vl_convert

        if kind == "png":
            return vl_convert.svg_to_png(self.svg, ppi=PPI)
        return settled(vl_convert.svg_to_pdf(self.svg)) if kind == "pdf" else self.svg.encode()


def draw(figure: Figure, page: Page, data: pd.DataFrame, look: Look) -> Picture:
    """Return the figure, drawn under its heading, as wide as the look says."""
    said = heading(figure, page, data)
    text = "".join([*said, figure.title, *_letters(data)])
    fonts.lacking(text)
    spec = specification(figure, data, look)
    large = look.width * 7 / 9.5
    spec["title"] = {"text": wrapped(figure.title.split(), large, " "), "subtitle": _lines(said, look.width)}
    spec["config"] = config(LIGHT, fonts.families(text), background="white")
    return Picture(spec, fitted(spec, look.width), data)


def specification(figure: Figure, data: pd.DataFrame, look: Look) -> dict[str, Any]:
    """Return a figure's Vega-Lite specification without heading and theme."""
    spec: dict[str, Any] = figure.chart(data, look).to_dict(validate=False)
    del spec["config"]
    return spec


def _lines(said: list[str], width: int) -> list[str]:
    facts = [part for part in said if ":" not in part]
    notes = [word for part in said if ":" in part for word in f"{part}.".split()]
    return [*wrapped(facts, width), *(wrapped(notes, width, " ") if notes else [])]


def fitted(spec: dict[str, Any], width: int) -> str:
    """Make the panels so wide that all of it is as wide as asked, labels included; return it as SVG."""
    for _ in range(3):
        svg = _svg(spec)
        more = width - float(svg.partition('width="')[2].partition('"')[0])
        if abs(more) < 2:
            break
        for view in _views(spec):
            view["width"] = max(40, round(view["width"] + more / _across(spec), 1))
    return svg


def _views(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if isinstance(spec.get("width"), int | float):
        yield spec
    for part in [spec.get("spec"), *spec.get("concat", []), *spec.get("hconcat", []), *spec.get("vconcat", [])]:
        if part:
            yield from _views(part)


def _across(spec: dict[str, Any]) -> int:
    below = spec.get("vconcat")
    return _across(below[0]) if below else int(spec.get("columns", len(spec.get("hconcat", "x"))))


def _svg(spec: dict[str, Any]) -> str:
    import vl_convert

    fonts.register()
    return numbered(vl_convert.vegalite_to_svg(spec, vl_version=VERSION))


def numbered(svg: str) -> str:
    """Return a picture with its clips and gradients counted from 0: Vega counts them over a whole process."""
    seen: dict[str, str] = {}
    pattern = re.compile(r'(?:(?<=id=")|(?<=\(#))(clip|gradient_)\d+')
    return pattern.sub(lambda found: seen.setdefault(found[0], f"{found[1]}{len(seen)}"), svg)


def settled(pdf: bytes) -> bytes:
    """Return a PDF with the names in each dictionary sorted, which the converter writes in an order of chance."""
    entries = re.compile(rb"(?: +/\w+ \d+ 0 R\n){2,}")
    return entries.sub(lambda found: b"".join(sorted(found[0].splitlines(keepends=True))), pdf)


def _letters(data: pd.DataFrame) -> list[str]:
    """Return every text of a frame."""
    columns = [data[name] for name in data.columns if not pd.api.types.is_numeric_dtype(data[name])]
    return [str(cell) for column in columns for cell in column.unique()]


def _write(stem: Path, kind: str, content: bytes) -> Path:
    path = stem.with_name(f"{stem.name}.{kind}")  # not with_suffix: a model's name may have a dot
    write_bytes(path, content)
    return path
