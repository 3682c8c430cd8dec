"""The panels of both workspace and report, in sections."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from analysis.exchange.wandb import names
from analysis.exchange.wandb.names import Shown, workspaces

WIDTH, HEIGHT, ROW = 12, 8, 24
"""Of a panel, and of the grid, in the report's units."""


@dataclass(frozen=True)
class Section:
    """Panels on one question."""

    name: str
    text: str
    """How to read them."""
    panels: tuple[Any, ...]


def sections(shown: Shown) -> tuple[Section, ...]:
    """Return all sections; a panel whose numbers a project lacks is empty in W&B."""
    return (
        Section("Leaderboard", LEADERBOARD, _leaderboard(shown)),
        Section("Learning and forgetting", PARETO, _pareto(shown)),
        Section("Curves", CURVES, _curves(shown)),
        Section("Intruder dimensions", INTRUDERS, _intruders(shown)),
        Section("Memory and time", COSTS, _costs(shown)),
    )


def _leaderboard(shown: Shown) -> tuple[Any, ...]:
    bars = [_bars(f"{metric}, test split", names.score(metric)) for metric in shown.metrics]
    bars += [_bars(f"{metric} before training", names.score(metric, phase="before")) for metric in shown.metrics]
    return (*bars, _table("Comparisons and their verdicts", names.VERDICTS))


def _pareto(shown: Shown) -> tuple[Any, ...]:
    lead = shown.metrics[0]
    return tuple(
        _scatter(f"{lead} learned, {headline} of {label} forgotten", names.delta((label, headline)), names.score(lead))
        for label, headline in shown.probes
    )


def _curves(shown: Shown) -> tuple[Any, ...]:
    logged = {"loss": "training loss", "grad_norm": "gradient norm", "learning_rate": "learning rate"}
    logged |= {names.validation(metric): f"validation {metric}" for metric in shown.metrics}
    logged |= {names.along(probe): f"{probe[1]} of {probe[0]} during training" for probe in shown.probes}
    return tuple(_lines(title, name) for name, title in logged.items())


def _intruders(shown: Shown) -> tuple[Any, ...]:
    count = names.analysed("intruders_excess")
    forgotten = [
        _scatter(f"intruders and {headline} of {label} forgotten", count, names.delta((label, headline)))
        for label, headline in shown.probes
    ]
    return (
        _bars("intruder dimensions beyond random changes of the same spectrum", count),
        _bars("intruder dimensions", names.analysed("intruders")),
        _bars("the same for random changes of the same spectrum", names.analysed("intruders_null")),
        _bars("the same for random changes of equal rank", names.analysed("intruders_null_rank")),
        _bars("the same for random changes of equal norm", names.analysed("intruders_null_dense")),
        _bars("effective rank of the change, mean", names.analysed("effective_rank")),
        *forgotten,
        _table("Counts over k and eps", names.analysed("counts")),
        _table("Weight changes, matrix by matrix", names.analysed("matrices")),
    )


def _costs(shown: Shown) -> tuple[Any, ...]:
    lead = shown.metrics[0]
    return (
        *(_bars(f"peak memory in training, {of}, GiB", name) for of, name in names.MEMORY.items()),
        _bars("training, seconds", names.SECONDS),
        _scatter(f"{lead} and trainable parameters", names.TRAINABLE, names.score(lead), log_x=True),
        _scatter(f"{lead} and seconds of training", names.SECONDS, names.score(lead)),
    )


def _bars(title: str, metric: str) -> Any:
    wr = workspaces().wr
    grouped = {"groupby": wr.Config(names.METHOD), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    return _fixed(wr.BarPlot(title=title, metrics=[metric], **grouped))


def _lines(title: str, metric: str) -> Any:
    wr = workspaces().wr
    return _fixed(wr.LinePlot(title=title, x="tokens", y=[metric], title_x="tokens", smoothing_type="none"))


def _scatter(title: str, x: str, y: str, **options: Any) -> Any:
    wr = workspaces().wr
    return _fixed(wr.ScatterPlot(title=title, x=wr.SummaryMetric(x), y=wr.SummaryMetric(y), **options))


def _table(title: str, name: str) -> Any:
    return _fixed(workspaces().wr.WeavePanelSummaryTable(table_name=name), title)


def _fixed(panel: Any, title: str | None = None) -> Any:
    """Give a panel an id that is the same each time, so that two specifications differ only in what they show."""
    panel._id = hashlib.sha256((title or panel.title).encode()).hexdigest()[:11]
    return panel


LEADERBOARD = (
    "Scores on the test split, the mean over runs of a method with the lowest and highest. The interval of each run "
    "stands in its columns. A difference between bars says nothing by itself: the verdicts do, where "
    "`python -m analysis.wandb` has added them, by paired intervals that hold for all comparisons at once, at "
    "learning rates chosen on the validation split."
)
PARETO = "What a run learned against what it forgot. For a loss, further right is more forgotten; for a score, less."
CURVES = (
    "Against tokens seen. Runs are grouped by method and rank; validation and probes along the way are there with "
    "`train.eval_steps` and `forgetting.every`."
)
INTRUDERS = (
    "Top singular vectors of the tuned matrices that no base vector resembles (arXiv 2410.21228), from "
    "`python -m analysis.intruders`. A count means nothing without the same for random changes beside it; a method "
    "that changes no weight matrix has none, which is not zero."
)
COSTS = "Peak memory and seconds of training alone; loading and evaluation are not in them."
