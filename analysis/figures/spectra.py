"""Singular values of W0, W and ΔW, with a Gaussian control (arXiv 2405.09673, figure 6 and appendix)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.figure import FIGURES, PAGE, Figure
from analysis.drawing.marks import handle, height, labels, legend, log_axis, panels
from analysis.drawing.page import Page
from analysis.drawing.series import named
from analysis.drawing.sources import CARRIED, learned, tables
from analysis.drawing.style import GREY, Look, Mark

COLUMNS = 3
MARKS = {
    "base": ("W0", Mark("#000000", "none", "-")),
    "tuned": ("W", Mark("#E69F00", "none", (0, (4, 2)))),
    "change": ("ΔW", Mark("#0072B2", "none", "-")),
    "gaussian": ("Gaussian of ΔW's norm", Mark(GREY, "none", (0, (1, 1)))),
}


@FIGURES.register("spectra")
class Spectra(Figure):
    """How the change's singular values fall off, beside those of noise of its norm.

    One run a method (its highest rank at the chosen rate, the first seed) and one matrix for all: the one that changed
    most, ‖ΔW‖/‖W0‖, on average over these runs.
    """

    title = "Singular values of the matrix that changed most"
    needs = "spectra: python -m analysis.intruders <runs> spectra=true"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, spectrum and index; values at the resolution of float32 are left out."""
        table = one_a_method(page.chosen)
        sizes = tables(table, "matrices", learned)
        rows = tables(table, "spectra", learned)
        rows = rows[rows["id"].isin(sizes["id"])] if len(rows) and len(sizes) else rows.iloc[:0]
        if rows.empty:
            return rows
        sizes = sizes[sizes["matrix"].isin(rows["matrix"])]
        matrix = sizes.groupby("matrix")["relative_norm"].mean().idxmax()
        rows, sizes = rows[rows["matrix"] == matrix], sizes[sizes["matrix"] == matrix]
        noise = [_noise(size) for size in sizes.to_dict("records")]
        found = pd.concat([rows, *noise], ignore_index=True)[[*CARRIED, "matrix", "of", "index", "sigma"]]
        found = found[found["sigma"] > 1e-6 * found.groupby(["id", "of"])["sigma"].transform("max")]
        return found.assign(value=found["sigma"], ids=found["id"], name=named(found)).drop(columns=["sigma", "id"])

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a panel a method."""
        places = panels(canvas, list(dict.fromkeys(data["name"])), COLUMNS)
        for name, axes in places.items():
            for of, (_, mark) in MARKS.items():
                rows = data[(data["name"] == name) & (data["of"] == of)].sort_values("index")
                axes.plot(rows["index"] + 1, rows["value"], color=mark.colour, linestyle=mark.line)
            log_axis(axes.xaxis, data["index"] + 1)
            log_axis(axes.yaxis, data["value"])
        labels(places, COLUMNS, "index", "singular value")
        legend(canvas, [handle(text, mark) for text, mark in MARKS.values()], title=data["matrix"].iloc[0])

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for a panel a method."""
        return PAGE, height(data["name"].nunique(), COLUMNS, rest=1.1)


def one_a_method(table: pd.DataFrame) -> pd.DataFrame:
    """Return one run of each method: its highest rank, and of these the first seed."""
    ordered = table.assign(order=table["rank"].fillna(0)).sort_values(["order", "seed"], ascending=[False, True])
    first = ordered.drop_duplicates("method").index
    return table.loc[[index for index in table.index if index in set(first)]]


def _noise(size: dict[str, Any]) -> pd.DataFrame:
    """Return the singular values to expect of a Gaussian matrix as large as this change."""
    values = gaussian_spectrum(int(size["rows"]), int(size["columns"]), float(size["change_norm"]))
    facts = {name: size[name] for name in [*CARRIED, "matrix"]}
    return pd.DataFrame({"index": np.arange(len(values)), "sigma": values}).assign(of="gaussian", **facts)


def gaussian_spectrum(rows: int, columns: int, norm: float) -> Any:
    """Return the quantiles of the singular values of a Gaussian matrix of this Frobenius norm, largest first.

    Marchenko and Pastur (1967): x = σ²/(s² m), s = norm/√(mn), m ≥ n, c = n/m, has the density
    √((b - x)(x - a)) / (2π c x) between a, b = (1 ∓ √c)². Shape (min(rows, columns),).
    """
    longer, shorter = max(rows, columns), min(rows, columns)
    c = shorter / longer
    angle = np.linspace(0, np.pi, 4001)  # x = 1 + c - 2 √c cos(angle) takes the root at both edges out of the density
    x = 1 + c - 2 * np.sqrt(c) * np.cos(angle)
    mass = np.sin(angle) ** 2 / np.maximum(x, 1e-12)
    below = np.concatenate([[0], np.cumsum((mass[1:] + mass[:-1]) / 2)])
    quantiles = np.interp((np.arange(shorter) + 0.5) / shorter, below / below[-1], x)
    values = np.sqrt(quantiles[::-1])
    return values * norm / np.linalg.norm(values)
