"""R[i, j]: the score on task j after training on task i (arXiv 2410.21228, figure 9)."""

from __future__ import annotations

import altair as alt
import pandas as pd

from analysis.records import items
from analysis.views.drawing.figure import FIGURES, Figure
from analysis.views.drawing.heat import Heat
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING, named, over_seeds
from analysis.views.drawing.sources import CARRIED
from analysis.views.drawing.style import Look

COLUMNS = 3
PREFIX = "forgetting/sequence/"


@FIGURES.register("sequence_grid")
class SequenceGrid(Figure):
    """What each stage of a sequence of tasks teaches, and what it takes from the tasks before; R[0, j] is untouched."""

    title = "Score on each task after each stage of a sequence, mean over seeds"
    needs = 'a sequence of tasks: python -m harness.run "sequence=[trec,rotten_tomatoes,boolq]"'

    def data(self, page: Page) -> pd.DataFrame:
        """Return a row for each method, rank, further setting, stage (0 is the untouched model) and task."""
        found = [_scores(run) for run in page.chosen.to_dict("records") if "+" in page.task]
        found = [rows for rows in found if len(rows)]
        if not found:
            return pd.DataFrame()
        rows = over_seeds(pd.concat(found, ignore_index=True), [*SETTING, "stage", "after", "task"], "score")
        return rows.assign(name=named(rows), interval="")

    def chart(self, data: pd.DataFrame, look: Look) -> alt.FacetChart:
        """Return a panel for each method and rank."""
        return Heat("after", "task", ("after training on", "score on"), "R[i, j]", (0.0, 1.0), ".2f").chart(data, look)


def _scores(run: dict[str, object]) -> pd.DataFrame:
    """Return a run's R and b: the mean score of each task's items after each stage."""
    outcomes = items(str(run["folder"]))
    outcomes = outcomes[(outcomes["phase"] == "after") & outcomes["split"].astype(str).str.startswith(PREFIX)]
    parts = outcomes["split"].astype(str).str.removeprefix(PREFIX).str.split("/", n=1, expand=True)
    if parts.shape[1] < 2:
        return pd.DataFrame()
    scores = outcomes.assign(stage=parts[0].astype(int), task=parts[1])
    means = (
        scores.groupby(["stage", "task"], sort=False)["score"].mean().reset_index().sort_values("stage", kind="stable")
    )
    order = str(run["task"]).split("+")
    after = means["stage"].map(lambda stage: "untouched" if stage == 0 else f"{stage} {order[stage - 1]}")
    return means.assign(after=after, **{name: run[name] for name in CARRIED})
