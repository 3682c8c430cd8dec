"""One theme for paper and page: colours that colour-blind readers tell apart, sizes for print, names that stay text.

No figure names a colour: marks have a style of `config`, and scales take its ranges, so that one specification is drawn
light on paper and light or dark on the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

COLUMN, PAGE = 238, 497
"""Points: one column of a two-column paper (3.3 inches), and both (6.9). A pixel of Vega-Lite is a point."""
PANEL = 115
"""Points that a panel should have at least."""
SHAPES = (
    *("circle", "square", "triangle-up", "diamond", "triangle-down", "cross"),
    "M-1,-0.5L-0.5,-1L0,-0.5L0.5,-1L1,-0.5L0.5,0L1,0.5L0.5,1L0,0.5L-0.5,1L-1,0.5L-0.5,0Z",  # ×
    "M-0.9,-0.9L0.9,-0.9L-0.9,0.9L0.9,0.9Z",  # hourglass
    "M0,-1.15L0.34,-0.38L1.1,-0.36L0.55,0.18L0.7,0.95L0,0.55L-0.7,0.95L-0.55,0.18L-1.1,-0.36L-0.34,-0.38Z",  # star
)
"""Nine, and ten colours: as 9 and 10 share no divisor, the first 90 methods differ in the pair."""
DASHES: tuple[list[float], ...] = ([1, 0], [5, 1.5], [1, 1.2], [4, 1, 1, 1], [8, 2], [2.5, 1.2], [8, 1.5, 1, 1.5])
HEAT = "cividis"
"""For heat maps: its lightness rises all the way, so that it survives a grey printer."""


@dataclass(frozen=True)
class Theme:
    """Colours on a ground."""

    text: str
    quiet: str
    """Axes, controls and bases."""
    faint: str
    """Lines of the grid, and of methods that stand behind others."""
    ranks: tuple[float, float]
    """The part of the viridis scale that ranks take, low to high."""
    methods: tuple[str, ...]


LIGHT = Theme(
    *("#1B1F24", "#666666", "#E2E4E8", (0.0, 0.62)),
    # Okabe and Ito (2008), what is paler than 3 to 1 on white darkened, and two of Tol's (2021)
    ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#C58500", "#2E93CF", "#000000", "#8A8100", "#882255", "#332288"),
)
DARK = Theme(
    *("#E8EAED", "#A9B1BD", "#3A414C", (1.0, 0.42)),
    ("#5CB8F5", "#FF9A52", "#34CFA0", "#EE8FCB", "#F0D24A", "#B3A9FF", "#E8EAED", "#B5D96B", "#FF8FA0", "#7CE0EE"),
)


def config(theme: Theme, fonts: str, size: float = 1.0, background: str | None = None) -> dict[str, Any]:
    """Return the theme as Vega-Lite's ``config``; `size` is 1 on paper, where labels have 7 points and titles 8."""
    small, normal = 7 * size, 8 * size
    line = {"strokeWidth": 1.2 * size}
    dotted = {"color": theme.quiet, "strokeWidth": 0.8 * size, "strokeDash": [2, 2]}
    return {
        "background": background,
        "font": fonts,
        "padding": 3,
        "view": {"stroke": None},
        "title": _title(theme, size),
        "header": {"labelFontSize": normal, "labelColor": theme.text, "labelPadding": 3, "title": None},
        "axis": {
            **{"labelFontSize": small, "titleFontSize": normal, "titleFontWeight": "normal", "titlePadding": 4 * size},
            **{"labelColor": theme.quiet, "titleColor": theme.text, "labelLimit": 130 * size, "tickSize": 3},
            **{"gridColor": theme.faint, "gridWidth": 0.5, "domainColor": theme.quiet, "tickColor": theme.quiet},
            **{
                "domainWidth": 0.6,
                "tickWidth": 0.6,
                "labelExpr": COMPACT,
                "labelOverlap": True,
                "tickCount": 5,
                "grid": True,
            },
        },
        "axisDiscrete": {"labelExpr": "datum.label", "grid": False},
        "legend": {
            **{"orient": "bottom", "direction": "horizontal", "labelFontSize": small, "titleFontSize": small},
            **{"labelColor": theme.text, "titleColor": theme.quiet, "titleFontWeight": "normal", "symbolOpacity": 1},
            **{"labelLimit": 190 * size, "offset": 6, "rowPadding": 1, "columnPadding": 8, "titlePadding": 3},
            **{"symbolSize": 30 * size**2, "symbolStrokeWidth": 0, "gradientThickness": 6 * size},
            "symbolBaseFillColor": theme.quiet,  # of sizes, which have no colour; else black on black
        },
        "range": {
            "category": list(theme.methods),
            "ordinal": {"scheme": "viridis", "extent": list(theme.ranks)},
            "heatmap": {"scheme": HEAT},
            "ramp": {"scheme": HEAT},
        },
        "line": line,
        "point": {"size": 24 * size**2, "filled": True, "opacity": 1},
        "style": {
            "interval": {"strokeWidth": 0.8 * size, "opacity": 0.55},
            "band": {"opacity": 0.14},
            "other": {"color": theme.faint, "strokeWidth": 0.7 * size, "strokeDash": [1, 0]},
            "control": {"color": theme.quiet, "strokeWidth": 1.0 * size},
            "glyph": {"fontSize": 8 * size, "color": theme.quiet},
            "reference": dotted,
            "across": {"strokeWidth": 0.8 * size, "opacity": 0.7},
            "front": {"color": theme.quiet, "strokeWidth": 0.8 * size},
            "note": {"fontSize": 6 * size, "color": theme.quiet},
            "rank": {"fontSize": 6 * size},
            "panel": {"fontSize": normal, "fontWeight": "normal", "fill": theme.text, "font": fonts},
            "bar": {"color": theme.methods[0], "strokeWidth": 0.8 * size},
            "cell": {"fontSize": 6 * size},
            "ring": {"filled": False, "size": 80 * size**2, "strokeWidth": 0.9 * size},
            "diverged": {"fontSize": 10 * size, "baseline": "bottom"},
        },
    }


def _title(theme: Theme, size: float) -> dict[str, Any]:
    return {
        **{"anchor": "start", "frame": "bounds", "color": theme.text, "subtitleColor": theme.quiet, "offset": 6},
        # one weight in all of a figure: the converter writes several fonts of a PDF in an order of chance
        **{"fontSize": 9.5 * size, "fontWeight": "normal", "subtitleFontSize": 7 * size, "subtitlePadding": 3},
    }


COMPACT = (
    "!isNumber(datum.value) ? datum.label : datum.value === 0 ? '0' : abs(datum.value) < 0.01 ? "
    "format(datum.value, '.3~e') : abs(datum.value) < 1000 ? format(datum.value, '.3~g') : "
    "replace(format(datum.value, '.3~s'), 'G', 'B')"
)
"""Vega's expression for a number in few characters: 1e-4, 0.01, 250, 12k, 4.4M, 6.7B."""


@dataclass(frozen=True)
class Look:
    """How wide a figure is, and the order of methods and ranks, which gives each its mark in every figure alike."""

    methods: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    width: int = PAGE
    """Points."""

    @classmethod
    def of(cls, table: pd.DataFrame) -> Look:
        """Return the look of all runs that were read, whatever part of them a figure shows."""
        ranks = sorted({int(rank) for rank in table["rank"].dropna()})
        return cls(tuple(dict.fromkeys(table["method"].dropna().astype(str))), tuple(ranks))

    def across(self, panels: int, most: int = 3) -> int:
        """Return how many of these panels stand side by side."""
        return max(1, min(panels, most, self.width // PANEL))

    def columns(self, names: Iterable[str]) -> int:
        """Return in how many columns a legend of these names fits; at 7 points a letter is 3.7 wide, a mark 20."""
        widths = [min(190.0, 3.7 * width(name)) + 22 for name in names]
        return max(1, min(len(widths), int(self.width / max(widths, default=self.width))))


def cycled(values: Sequence[Any], count: int) -> list[Any]:
    """Return so many values, from the first again after the last."""
    return [values[place % len(values)] for place in range(count)]


def missing(value: Any) -> bool:
    """Return whether a cell of a table holds nothing."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def compact(value: float) -> str:
    """Write a number in few characters: 1e-4, 0.01, 250, 12k, 4.4M, 6.7B."""
    if value == 0:
        return "0"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    if abs(value) < 1e-2:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.3g}"


def width(text: str) -> int:
    """Return how many Latin letters a text is wide: East Asian letters count twice."""
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def wrapped(parts: Iterable[str], points: float, between: str = " · ") -> list[str]:
    """Return parts joined, broken between parts into lines that fit; at 7 points a letter is 3.7 points wide."""
    limit, lines = int(points / 3.7), [""]
    for part in map(str, parts):
        longer = f"{lines[-1]}{between}{part}" if lines[-1] else part
        if lines[-1] and width(longer) > limit:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines
