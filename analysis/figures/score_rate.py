"""Score against learning rate, by method and rank (arXiv 2405.09673, appendix), with the chosen rate marked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from analysis.configurations import UNIT
from analysis.drawing.figure import FIGURES, Figure
from analysis.drawing.marks import Handle, bars, frame, handle, height, labels, legend, log_axis, panels, reference
from analysis.drawing.page import Page
from analysis.drawing.scores import effects_over_seeds
from analysis.drawing.series import SETTING, in_order
from analysis.drawing.style import GREY, Look, missing
from analysis.effects.outcomes import LEARNING
from analysis.searches import searches, tried

COLUMNS = 3
TEST, VALIDATION = "test", "validation"
HOLLOW = {"markerfacecolor": "none", "linestyle": "none"}
RING = HOLLOW | {"marker": "o", "markersize": 9}
OPEN = HOLLOW | {"marker": "D", "markersize": 8.5}
CROSS = HOLLOW | {"marker": "x", "markersize": 5}


@FIGURES.register("score_rate")
class ScoreRate(Figure):
    """Whether each method got the rate that suits it; a best rate at the edge of those tried was not found."""

    title = "Score against learning rate, by method and rank"
    chosen = False
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

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a panel a method and a line a rank."""
        places = panels(canvas, list(dict.fromkeys(data["panel"])), COLUMNS)
        handles: dict[str, Any] = {}
        for name, axes in places.items():
            own = data[data["panel"] == name]
            handles |= dict(_lines(axes, own, look))
            for value in own["base"].dropna().unique():
                reference(axes, value, "untouched")
            frame(axes, data[data["value"].notna()], *data["base"].dropna().unique(), share=True)
            log_axis(axes.xaxis, data["learning_rate"])
        splits = data["split"].unique()
        split = f"{splits[0]} " if len(splits) == 1 else ""  # else each panel's title says it
        labels(places, COLUMNS, "learning rate", f"{split}{data['metric'].iloc[0]}")
        legend(canvas, [*handles.items(), *_marked(data)])

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for a panel a method."""
        return 6.9, height(data["panel"].nunique(), COLUMNS)


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


def _lines(axes: Axes, own: pd.DataFrame, look: Look) -> Iterator[Handle]:
    """Draw a panel's lines, the chosen rate of each encircled, rates without a score as crosses at the bottom."""
    groups = own.groupby(["rank", "setting"], dropna=False, sort=True)
    for number, ((rank, setting), rows) in enumerate(groups):
        mark = look.rank(rank)
        known = rows[rows["value"].notna()].sort_values("learning_rate")
        bars(axes, known, "learning_rate", mark, linestyle=mark.line, linewidth=1)
        for style, some in ((RING, known[~known["warning"]]), (OPEN, known[known["warning"]])):
            chosen = some[some["chosen"]]
            axes.plot(chosen["learning_rate"], chosen["value"], markeredgecolor=mark.colour, zorder=4, **style)
        lost = rows.loc[rows["value"].isna(), "learning_rate"]
        level = [0.04 + 0.07 * number] * len(lost)  # one above the other where several ranks lost the same rate
        axes.plot(lost, level, transform=axes.get_xaxis_transform(), markeredgecolor=mark.colour, **CROSS)
        name = " ".join(filter(None, ["no rank" if missing(rank) else f"rank {int(rank)}", setting]))
        yield handle(name, mark)


def _marked(data: pd.DataFrame) -> Iterator[Handle]:
    """Yield the legend's entries of what is marked in any panel."""
    warned = data["chosen"] & data["warning"]
    entries = [
        ("chosen", RING, data["chosen"] & ~warned),
        ("chosen, optimum not inside", OPEN, warned),
        ("diverged", CROSS, data["value"].isna()),
    ]
    for name, style, rows in entries:
        if rows.any():
            yield name, Line2D([], [], markeredgecolor=GREY, **style)
