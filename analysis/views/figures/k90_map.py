"""The rank that holds 90 % of the change, layer by module (arXiv 2405.09673, figure 7 and appendix)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.heat import Heat
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING, named, over_seeds
from analysis.views.drawing.sources import learned, tables
from analysis.views.drawing.style import Look

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

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel a method."""
        layers, cells = data["layer"].nunique(), data["layer"].nunique() * data["kind"].nunique()
        form, height = ".0f" if cells <= 60 else "", max(80, 9 * layers)
        ends = (0.0, float(data["value"].max()))
        return Heat("layer", "kind", ("layer", ""), "k90", ends, form, height).chart(data.sort_values("layer"), look)
