"""The rank that holds 90 % of the change, layer by module (arXiv 2405.09673, figure 7 and appendix)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.figure import FIGURES, PAGE, Figure
from analysis.drawing.heat import bar, grid, heat, ticks
from analysis.drawing.marks import height, panels
from analysis.drawing.page import Page
from analysis.drawing.series import SETTING, named, over_seeds
from analysis.drawing.sources import learned, tables
from analysis.drawing.style import Look

COLUMNS = 3


@FIGURES.register("k90_map")
class K90Map(Figure):
    """k90 = min k with Σ_{i≤k} σ_i² ≥ .9 Σ σ_i² of ΔW, mean over seeds; of each method the highest rank."""

    title = "Rank that explains 90 % of the weight change, by layer and module"
    needs = "intruder tables, with spectra for dense changes: python -m analysis.intruders <runs> spectra=true"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method (its highest rank, at the chosen rate), layer and module kind."""
        table = page.chosen
        highest = table.groupby("method")["rank"].transform("max")
        rows = tables(table[table["rank"].isna() | (table["rank"] == highest)], "matrices", learned)
        if rows.empty:
            return rows
        found = over_seeds(rows, [*SETTING, "layer", "kind"], "change_k90")
        return found.assign(name=named(found), interval="") if len(found) else found

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a panel a method."""
        places = panels(canvas, list(dict.fromkeys(data["name"])), COLUMNS)
        low, high = 0.0, float(data["value"].max())
        for place, (name, axes) in enumerate(places.items()):
            cells = grid(data[data["name"] == name].sort_values("layer"), "layer", "kind")
            image = heat(axes, cells, low, high, "{:.0f}" if cells.size <= 60 else None)
            ticks(axes, cells.index, cells.columns)
            if place % min(COLUMNS, len(places)) == 0:
                axes.set_ylabel("layer")
        bar(canvas, image, list(places.values()), "k90")

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for a panel a method; more for many layers."""
        each = max(2.0, 0.9 + 0.11 * data["layer"].nunique())
        return PAGE, height(data["name"].nunique(), COLUMNS, each, 0.8)
