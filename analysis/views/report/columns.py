"""What the page says of each column of the tidy table: its name for people, its format, its interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Column:
    """A column of the page's leaderboard, and an axis of its charts where it is a number."""

    key: str
    label: str
    format: str = "number"
    """text, number, share, change, percent, whole, rate, bytes or seconds."""
    hint: str = ""
    low: str | None = None
    high: str | None = None
    shown: bool = False
    """Whether the leaderboard begins with it."""


KNOWN = (
    Column("label", "Run", "text", "method and rank; opens the run", shown=True),
    Column("mixed", "Resumed", "text", "resumed under other versions or hardware: what differed", shown=True),
    Column("model", "Model", "text"),
    Column("task", "Task", "text"),
    Column("method", "Method", "text"),
    Column("rank", "Rank", "whole"),
    Column("seed", "Seed", "whole", shown=True),
    Column("learning_rate", "Learning rate", "rate", shown=True),
    Column("rates_tried", "Rates tried", "whole", "by the search that chose the learning rate"),
    Column("search_why", "Rate search", "text", "why the search for the learning rate ended"),
    Column("scale", "LoRA scale", "number", "α/r, for rsLoRA α/√r"),
    Column("status", "Status", "text"),
    Column("score", "Score", "share", "test split, 95 % interval", "score_low", "score_high", shown=True),
    Column("base", "Base", "share", "the untouched model, test split", "base_low", "base_high", shown=True),
    Column("validation", "Validation", "share", "by which learning rates are chosen"),
    Column("forgetting", "Forgetting", "change", "", "forgetting_low", "forgetting_high", shown=True),
    Column(
        "intruders_excess", "Intruders beyond chance", "number", "beyond random changes of its spectrum", shown=True
    ),
    Column("intruders_p", "p, intruders", "number", "that a random change of the same spectrum has as many"),
    Column("intruders", "Intruders", "whole", "intruder dimensions, left vectors, against W0"),
    Column("intruders_clustered", "Intruders, clusters", "whole", "near-equal base values count as one subspace"),
    Column("intruders_v", "Intruders, right", "whole", "right singular vectors"),
    Column("intruders_null", "Null: same spectrum", "number", "median and 5 % to 95 % of random changes with ΔW's σ"),
    Column("intruders_null_rank", "Null: equal rank", "number", "random changes of equal norm and rank, median"),
    Column("intruders_null_dense", "Null: dense", "number", "random dense changes of equal norm, median"),
    Column("intruders_floor", "Null: quantising", "whole", "of quantising the base alone"),
    Column("relative_change", "‖ΔW‖/‖W0‖", "number", "mean over matrices"),
    Column("effective_rank", "Effective rank", "number", "of ΔW, mean over matrices"),
    Column("trainable", "Trainable", "whole", "parameters that train", shown=True),
    Column("trainable_share", "Trainable share", "percent"),
    Column("total", "Parameters", "whole"),
    Column("saved_bytes", "Saved", "bytes", "size of the trained state"),
    Column("train_seconds", "Training time", "seconds", shown=True),
    Column("tokens", "Tokens", "whole", "trained on"),
    Column("tokens_per_second", "Tokens/s", "number"),
    Column("steps", "Steps", "whole"),
    Column("train_peak_bytes", "Peak memory", "bytes", "of training: the GPU's, else the process's", shown=True),
    Column("train_paged_bytes", "Paged", "bytes", "optimiser state beside the GPU's peak"),
    Column("evaluate_peak_bytes", "Peak, evaluation", "bytes"),
    Column("test_items", "Test items", "whole"),
    Column("metric", "Metric", "text"),
    Column("id", "Id", "text", "the run's id and folder name"),
    Column("commit", "Commit", "text"),
    Column("precision", "Precision", "text"),
    Column("device", "Device", "text"),
    Column("threads", "Threads", "whole"),
    Column("processes", "Processes", "whole"),
    Column("started", "Started", "text"),
)


def columns(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the columns in which any run has a value, in the order of the page."""
    found = [*KNOWN, *_phases(table), *_probes(table)]
    return [asdict(_named(column, table)) for column in found if _has(table, column.key)]


def _has(table: pd.DataFrame, key: str) -> bool:
    return key in table and bool(table[key].notna().any())


def _named(column: Column, table: pd.DataFrame) -> Column:
    """Say what forgetting and score are: their metric, where it is the same in all runs."""
    source = {"forgetting": "forgetting_name", "score": "metric"}.get(column.key)
    names = table[source].dropna().unique() if source in table else []
    if len(names) == 0:
        return column
    hint = f"{' or '.join(map(str, names))}{', ' if column.hint else ''}{column.hint}"
    label = f"{column.label}: {names[0]}" if column.key == "score" and len(names) == 1 else column.label
    return Column(**asdict(column) | {"hint": _change(hint) if column.key == "forgetting" else hint, "label": label})


def _change(hint: str) -> str:
    return f"change in {hint}, after minus before"


def _phases(table: pd.DataFrame) -> Iterator[Column]:
    for key in table.columns:
        if key.startswith("seconds.") and key != "seconds.train":
            yield Column(key, f"Time: {key.removeprefix('seconds.').replace('_', ' ')}", "seconds")


def _probes(table: pd.DataFrame) -> Iterator[Column]:
    """Yield a column for each change that a probe measured, and for what it measured afterwards."""
    for key in table.columns:
        stem, _, end = key.rpartition(".")
        if not key.startswith("probe.") or not pd.api.types.is_numeric_dtype(table[key]):
            continue
        name = stem.removeprefix("probe.").replace(".", " ")
        if end == "delta":
            yield Column(key, f"Δ {name}", "change", "after minus before", f"{stem}.low", f"{stem}.high")
        elif end == "after":
            alone = not _has(table, f"{stem}.delta")
            yield Column(key, name, "number", "after training", *((f"{stem}.low", f"{stem}.high") if alone else ()))
