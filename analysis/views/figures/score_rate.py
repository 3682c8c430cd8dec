"""Score against learning rate, by method and rank (arXiv 2405.09673, appendix), with the chosen rate marked."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from analysis.effects.outcomes import LEARNING
from analysis.records.configurations import UNIT
from analysis.records.searches import searches, tried
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.marks import by_rank, log, measured, panels, points, ranked, reference, values
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING, effects_over_seeds, in_order
from analysis.views.drawing.style import Look

TEST, VALIDATION = "test", "validation"


@FIGURES.register("score_rate")
class ScoreRate(Figure):
    """Whether each method got the rate that suits it; a best rate at the edge of those tried was not found."""

    title = "Score against learning rate, by method and rank"
    chosen = False
    marks = "encircled: the chosen rate (diamond: its optimum is not inside); ×: diverged"
    needs = "search=learning_rate, or more than one rate: python -m harness.run -m train.learning_rate_factor=0.3,1,3"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, rate and further setting.

        Of a configuration that was searched the rates that the search tried, with their scores on the validation
        split; of others the test split's, nothing where no method has two rates.
        """
        parts = [part for part in (_searched(page), _swept(page)) if len(part)]
        if not parts:
            return pd.DataFrame()
        found = in_order(pd.concat(parts, ignore_index=True).sort_values("setting", kind="stable"))
        methods = found["method"].astype(str)
        both = found["split"].nunique() > 1
        return found.assign(panel=methods + (" (" + found["split"] + ")" if both else ""))

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel a method and a line a rank, the chosen rate of each encircled."""
        rows = ranked(data)
        splits, bases = rows["split"].unique(), [float(value) for value in rows["base"].dropna().unique()]
        split = f"{splits[0]} " if len(splits) == 1 else ""  # else each panel's title says it
        x = alt.X(field="learning_rate", type="quantitative", title="learning rate", **log(rows["learning_rate"]))
        y = measured(rows[rows["value"].notna()], f"{split}{rows['metric'].iloc[0]}", *bases, share=True)
        apart = by_rank(rows, look)
        layers = [line for base in bases for line in reference(base, "untouched")]
        layers += [_line(x, y, apart), *points(x, y, apart), *_rings(x, y, apart), _diverged(x, apart)]
        fields = ("panel", "of_rank", "setting", "learning_rate", "value", "low", "high", "chosen", "warning")
        return panels(layers, values(rows, *fields), list(dict.fromkeys(rows["panel"])), look)


def _line(x: alt.X, y: alt.Y, apart: dict[str, Any]) -> alt.Chart:
    shown = {key: apart[key] for key in ("color", "strokeDash") if key in apart}
    line = alt.Chart().transform_filter("isValid(datum.value)").mark_line(clip=True, aria=False)
    return line.encode(x=x, y=y, detail="setting:N", **shown)


def _rings(x: alt.X, y: alt.Y, apart: dict[str, Any]) -> list[alt.Chart]:
    """Return what encircles a chosen rate: a diamond where the search did not find the optimum inside."""
    rings = {"circle": "datum.chosen && !datum.warning", "diamond": "datum.chosen && datum.warning"}
    return [
        alt.Chart()
        .transform_filter(f"isValid(datum.value) && {which}")
        .mark_point(style="ring", shape=shape, clip=True, aria=False)
        .encode(x=x, y=y, color=apart["color"])
        for shape, which in rings.items()
    ]


def _diverged(x: alt.X, apart: dict[str, Any]) -> alt.Chart:
    """Return a cross at the bottom for each rate without a score."""
    crosses = alt.Chart().transform_filter("!isValid(datum.value)").mark_text(style="diverged", text="×")
    return crosses.encode(x=x, y=alt.value("height"), color=apart["color"])


def _searched(page: Page) -> pd.DataFrame:
    """Return what each search tried: one seed, so that the intervals are over items."""
    parts = []
    for runs, search in searches(page.chosen):
        facts = runs[["method", "rank", "setting"]].iloc[0].to_dict()
        rows = tried(search)
        said = {"split": VALIDATION, "seeds": 1, "interval": "items", "ids": rows["run"]}
        parts.append(rows.assign(**facts, **said, base=float("nan")))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _swept(page: Page) -> pd.DataFrame:
    """Return the means over seeds at every rate of the configurations that were not searched."""
    searched = set(page.chosen.loc[page.chosen["searched"].fillna(False), UNIT])
    table = page.every_rate[~page.every_rate[UNIT].isin(searched)]
    found = effects_over_seeds(page.effects, table.sort_values("learning_rate", kind="stable"), SETTING, LEARNING)
    if found.empty or found.groupby("method")["learning_rate"].nunique().max() < 2:
        return found.iloc[:0]
    # Not in the order of the run folders, whose names are hashes.
    ordered = found.sort_values(["method", "rank", "setting", "learning_rate"], ignore_index=True)
    kept = set(page.chosen["id"].astype(str))
    chosen = ordered["ids"].map(lambda ids: bool(kept & set(ids.split())))
    said = {"split": TEST, "warning": False, "metric": table["metric"].iloc[0], "base": table["base"].mean()}
    return ordered.assign(chosen=chosen, **said)
