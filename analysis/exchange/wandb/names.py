"""What the panels read, by the names that :mod:`harness.tracking` and :mod:`analysis.exchange.wandb` give it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pandas as pd

from analysis.exchange.wandb.findings import FORGOTTEN, PREFIX, VERDICT, VERDICTS
from harness.forgetting.base import PROBES
from harness.tracking import wandb as tracking

__all__ = ["FORGOTTEN", "VERDICT", "VERDICTS", "Shown", "all_metrics", "analysed", "delta", "measured", "score"]

METHOD, RANK, SEED, RATE = "method.name", "method.rank", "seed", "train.learning_rate"
"""Keys of a run's configuration; ``method.rank`` and not ``rank``, which methods without one have too."""
TRAINABLE, SAVED, SECONDS = "parameters/trainable", "parameters/saved_bytes", "seconds/train"
MEMORY = {"GPU": "memory/train/cuda_allocated_gib", "process": "memory/train/resident_gib"}
SPEED = "tokens_per_second"


@dataclass(frozen=True)
class Shown:
    """Which of the many metrics of a project its panels show."""

    metrics: tuple[str, ...]
    """Of tasks, such as ``accuracy``: the first one leads."""
    probes: tuple[tuple[str, str], ...]
    """Label and headline metric of what measures forgetting."""


def all_metrics() -> Shown:
    """Return what any project may hold: accuracy, and each registered probe with a headline."""
    import harness.forgetting.probes

    PROBES.discover(harness.forgetting.probes)
    headlines = ((name, PROBES[name].headline) for name in PROBES.names())
    return Shown(("accuracy",), tuple((name, headline) for name, headline in headlines if headline))


def measured(table: pd.DataFrame) -> Shown:
    """Return what the runs of a tidy table hold, most frequent first; what they lack, as anywhere."""
    own = table[~table["foreign"]]
    metrics = tuple(own["metric"].dropna().value_counts().index)
    named = own["forgetting_name"].dropna().value_counts().index
    probes = tuple((label, headline) for label, _, headline in (name.partition(" ") for name in named))
    usual = all_metrics()
    return Shown(metrics or usual.metrics, probes or usual.probes)


def score(metric: str, end: str = "value", phase: str = "after") -> str:
    """Return the summary's name for a score on the test split; `end` is value, low or high."""
    return f"scores/{phase}/test/{metric}/{end}"


def delta(probe: tuple[str, str]) -> str:
    """Return the summary's name for the change of a probe's headline."""
    label, headline = probe
    return f"forgetting/{label}/metrics/{headline}/delta/value"


def along(probe: tuple[str, str]) -> str:
    """Return the history's name for a probe's headline during training, there with ``forgetting.every``."""
    return "forgetting/{}/{}".format(*probe)


def validation(metric: str) -> str:
    """Return the history's name for the validation score during training, there with ``train.eval_steps``."""
    return f"validation/{metric}"


def analysed(name: str) -> str:
    """Return the summary's name for a number of the analysis."""
    return PREFIX + name


def workspaces() -> Any:
    """Return the modules of wandb-workspaces: ``ws``, ``wr``, ``expr`` and ``views``; nothing is sent."""
    tracking.wandb_library()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
        from wandb_workspaces.workspaces import internal as views
    return SimpleNamespace(ws=ws, wr=wr, expr=expr, views=views)
