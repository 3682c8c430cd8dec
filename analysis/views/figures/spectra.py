"""Singular values of W0, W and ΔW, with a Gaussian control (arXiv 2405.09673, figure 6 and appendix)."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import DASHED, log, panels, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import named
from analysis.views.drawing.sources import CARRIED, learned, tables
from analysis.views.drawing.style import DASHES, Look

COLUMNS = 3
SPECTRA = {"base": "W0", "tuned": "W", "change": "ΔW", "gaussian": "Gaussian of ΔW's norm"}


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

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel a method."""
        rows = data.assign(panel=data["name"], place=data["index"] + 1, spectrum=data["of"].map(SPECTRA))
        names = list(SPECTRA.values())
        legend = alt.Legend(title=data["matrix"].iloc[0], columns=look.columns(names), **DASHED)
        dash = alt.Scale(domain=names, range=[DASHES[0], DASHES[1], DASHES[0], DASHES[2]])
        line = (
            alt.Chart()
            .mark_line(clip=True)
            .encode(
                x=alt.X(field="place", type="quantitative", title="index", **log(rows["place"], 1.0)),
                y=alt.Y(field="value", type="quantitative", title="singular value", **log(rows["value"])),
                color=alt.Color("spectrum:N", scale=alt.Scale(domain=names), legend=legend),
                strokeDash=alt.StrokeDash("spectrum:N", scale=dash, legend=legend),
            )
        )
        return panels(
            [line], values(rows, "panel", "place", "value", "spectrum"), list(dict.fromkeys(rows["panel"])), look
        )


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
