"""Values over training, or over a limit: a panel a method and a line a rank, on the same axes."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from analysis.views.drawing.marks import by_rank, curves, of, only, panels, ranked, spread, values
from analysis.views.drawing.series import SETTING, over_seeds
from analysis.views.drawing.style import Look


def along(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds at each step; ``tokens`` is the mean number of tokens seen until there."""
    by = [*SETTING, "step"]
    found = over_seeds(rows, by, "value")
    if found.empty:
        return found.assign(tokens=[])
    # by key: the rows of `found` stand in the order of methods and ranks, those of a grouping in that of the runs
    return found.merge(rows.groupby(by, dropna=False, sort=False)["tokens"].mean().reset_index(), on=by, how="left")


def tokens_axis(data: pd.DataFrame) -> alt.X:
    """Return an axis of the tokens trained on."""
    axis = alt.Axis(tickCount=4)
    return alt.X(field="tokens", type="quantitative", title="tokens", scale=spread(data["tokens"]), axis=axis)


def panel_a_method(
    data: pd.DataFrame, look: Look, x: alt.X, y: alt.Y, behind: Sequence[alt.Chart] = ()
) -> alt.FacetChart:
    """Return a panel a method, a line a rank; `behind` stands behind the lines, and shows rows that have a ``null``."""
    rows = ranked(data.assign(panel=data["method"].astype(str)))
    if "null" in rows:
        rows.loc[rows["null"].notna(), "of_rank"] = None
    own = rows[rows["of_rank"].notna()]
    layers = [*behind, *only(curves(x, y, by_rank(own, look)), "of_rank")]
    fields = ("panel", "of_rank", "setting", x["field"], "value", "low", "high", "null")
    return panels(layers, values(rows, *fields), list(dict.fromkeys(own["panel"])), look)


def others(data: pd.DataFrame, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Return every method's lines, faint: what stands behind the one of a panel; nothing where there is one method."""
    if data["method"].nunique() < 2:
        return []
    series = data.groupby(SETTING, dropna=False, sort=False).ngroup()
    rows = values(data.assign(series=series)[["series", x["field"], "value"]], "series", x["field"], "value")
    line = alt.Chart(rows).mark_line(style="other", clip=True, aria=False)
    return [line.encode(x=x, y=of(y, "value"), detail="series:N")]
