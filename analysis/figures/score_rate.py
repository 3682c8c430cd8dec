"""Score against learning rate, by method and rank (arXiv 2405.09673, appendix)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.drawing.figure import FIGURES, Figure
from analysis.drawing.marks import bars, frame, handle, height, labels, legend, log_axis, panels, reference
from analysis.drawing.page import Page
from analysis.drawing.scores import scores_over_seeds
from analysis.drawing.series import SETTING
from analysis.drawing.style import Look, missing

COLUMNS = 3


@FIGURES.register("score_rate")
class ScoreRate(Figure):
    """Whether each method got the rate that suits it; a best rate at the edge of its grid was not found."""

    title = "Test score against learning rate, by method and rank"
    chosen = False
    needs = "more than one rate: python -m harness.run -m train.learning_rate_factor=0.3,1,3"

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, rate and further setting; nothing where no method has two rates."""
        table = page.every_rate
        found = scores_over_seeds(table.sort_values("learning_rate", kind="stable"), SETTING)
        if found.empty or found.groupby("method")["learning_rate"].nunique().max() < 2:
            return found.iloc[:0]
        # Not in the order of the run folders, whose names are hashes.
        ordered = found.sort_values(["method", "rank", "setting", "learning_rate"], ignore_index=True)
        return ordered.assign(metric=table["metric"].iloc[0], base=table["base"].mean())

    def draw(self, data: pd.DataFrame, canvas: Canvas, look: Look) -> None:
        """Draw a panel a method and a line a rank."""
        places = panels(canvas, list(dict.fromkeys(data["method"])), COLUMNS)
        handles = {}
        for method, axes in places.items():
            own = data[data["method"] == method]
            for (rank, setting), rows in own.groupby(["rank", "setting"], dropna=False, sort=True):
                name = " ".join(filter(None, ["no rank" if missing(rank) else f"rank {int(rank)}", setting]))
                mark = look.rank(rank)
                bars(axes, rows.sort_values("learning_rate"), "learning_rate", mark, linestyle=mark.line, linewidth=1)
                handles[name] = handle(name, mark)
            reference(axes, data["base"].iloc[0], "untouched")
            frame(axes, data, data["base"].iloc[0], share=True)
            log_axis(axes.xaxis, data["learning_rate"])
        labels(places, COLUMNS, "learning rate", f"test {data['metric'].iloc[0]}")
        legend(canvas, handles.values())

    def size(self, data: pd.DataFrame) -> tuple[float, float]:
        """Return inches for a panel a method."""
        return 6.9, height(data["method"].nunique(), COLUMNS)
