"""Heat maps: a panel a name, one colour scale for all, numbers in the cells where there is room."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from analysis.views.drawing.marks import panels, values
from analysis.views.drawing.style import Look


@dataclass(frozen=True)
class Heat:
    """Which columns are the rows and columns of a map, and what its colours say."""

    row: str
    column: str
    titles: tuple[str, str]
    """Of rows and columns."""
    said: str
    """What the colours are."""
    ends: tuple[float, float]
    form: str = ""
    """Vega's format of the numbers in the cells; empty for none."""
    height: int = 110
    """Points of a panel."""

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel for each ``name``, rows and columns in the order in which they first appear."""
        names = list(dict.fromkeys(data["name"]))
        x, y = self._axis(alt.X, data, self.column, 1), self._axis(alt.Y, data, self.row, 0)
        scale = alt.Scale(domain=list(self.ends))
        legend = alt.Legend(title=self.said, type="gradient", orient="right", direction="vertical", gradientLength=90)
        colour = {"color": alt.Color("value:Q", scale=scale, legend=legend)}
        # the line of a cell in its own colour closes the gaps that two smoothed edges leave between cells
        seam = {"stroke": alt.Stroke("value:Q", scale=scale, legend=legend)}
        layers = [alt.Chart().mark_rect(strokeWidth=0.4).encode(x=x, y=y, **colour, **seam)]
        layers += [self._numbers(x, y)] if self.form else []
        rows = values(data.assign(panel=data["name"]), "panel", self.row, self.column, "value")
        return panels(layers, rows, names, look, height=self.height)

    def _axis(self, kind: type[alt.X] | type[alt.Y], data: pd.DataFrame, column: str, place: int) -> alt.X | alt.Y:
        order = list(dict.fromkeys(data[column]))
        words = isinstance(order[0], str)
        more: dict[str, object] = {"labelAngle": -40 if words else 0} if kind is alt.X else {}
        if len(order) > 24 and not words:
            more["values"] = [one for one in order if one % 10 == 0]
        axis = alt.Axis(ticks=False, domain=False, labelLimit=80, labelOverlap=not words, **more)
        return kind(f"{column}:O", sort=order, title=self.titles[place] or None, axis=axis)

    def _numbers(self, x: alt.X | alt.Y, y: alt.X | alt.Y) -> alt.Chart:
        low, high = self.ends
        dark = alt.datum.value < low + 0.55 * (high - low)
        colour = alt.when(dark).then(alt.value("white")).otherwise(alt.value("black"))
        text = alt.Chart().mark_text(style="cell", aria=False)
        return text.encode(x=x, y=y, text=alt.Text("value:Q", format=self.form), color=colour)
