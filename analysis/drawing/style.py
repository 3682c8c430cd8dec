"""One style for all figures: colours that colour-blind readers tell apart, sizes for print, names that stay text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B3A700"),
    *("#882255", "#332288"),
)
"""Okabe and Ito (2008), their yellow darkened (#F0E442 has a contrast of 1.3 with white), and two of Tol's (2021)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (7, 2, 2, 2)))
GREY = "#767676"
"""Controls and bases; a contrast of 4.5 with white."""

RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 8,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "errorbar.capsize": 1.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.2,
    "axes.unicode_minus": True,
    # A name such as "a$b$" or "lora_r16" is text, never a formula.
    "text.parse_math": False,
    "text.usetex": False,
    # The same data give the same bytes: SVG ids are hashed with this, and fonts are embedded whole as TrueType.
    "svg.hashsalt": "peft-harness",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Mark:
    """How one series looks."""

    colour: str
    marker: str = "o"
    line: Any = "-"


@dataclass(frozen=True)
class Look:
    """Which mark each method and rank has: by their order in the records, the same in every figure."""

    methods: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()

    @classmethod
    def of(cls, table: pd.DataFrame) -> Look:
        """Return the look of all runs that were read, whatever part of them a figure shows."""
        ranks = sorted({int(rank) for rank in table["rank"].dropna()})
        return cls(tuple(dict.fromkeys(table["method"].dropna().astype(str))), tuple(ranks))

    def method(self, name: str) -> Mark:
        """Return a method's colour, marker and line; no two of the first 24 share both colour and marker."""
        place = self.methods.index(name) if name in self.methods else len(self.methods)
        return Mark(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], LINES[place % len(LINES)])

    def rank(self, rank: object) -> Mark:
        """Return a rank's shade, from dark for the lowest to light, with a marker and a line of its own."""
        if missing(rank) or int(rank) not in self.ranks:  # type: ignore[call-overload]
            return Mark(COLOURS[6], "o", "-")
        place = self.ranks.index(int(rank))  # type: ignore[call-overload]
        share = place / max(1, len(self.ranks) - 1)
        shade = to_hex(colormaps["viridis"](0.05 + 0.75 * share))
        return Mark(shade, MARKERS[place % len(MARKERS)], LINES[place % len(LINES)])


def missing(value: Any) -> bool:
    """Return whether a cell of a table holds nothing."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def compact(value: float, _place: object = None) -> str:
    """Write a number in few characters: 1e-4, 0.01, 250, 12k, 4.4M, 6.7B."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return ""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    if abs(value) < 1e-2:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}".replace("-", "−") if value < 0 else f"{float(digits):g}e{int(power)}"
    return f"{value:.3g}"


def shorten(text: str, length: int = 34) -> str:
    """Return a name on one line and no longer than a legend can hold; of a long one both ends stay."""
    line = " ".join(text.split())
    if width(line) <= length:
        return line
    head = tail = ""
    while width(head) + width(tail) < length - 2:
        if width(head) <= width(tail):
            head += line[len(head)]
        else:
            tail = line[-len(tail) - 1] + tail
    return f"{head}…{tail}"


def width(text: str) -> int:
    """Return how many Latin letters a text is wide: East Asian letters count twice."""
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def wrapped(parts: Iterable[str], inches: float, between: str = " · ") -> str:
    """Return parts joined, broken between parts into lines that fit; at 8 pt an inch holds 15 letters."""
    limit, lines = int(inches * 15), [""]
    for part in map(str, parts):
        longer = f"{lines[-1]}{between}{part}" if lines[-1] else part
        if lines[-1] and width(longer) > limit:
            lines.append(part)
        else:
            lines[-1] = longer
    return "\n".join(lines)
