"""What figures read beside the tidy table: histories and intruder tables, each row with its run's setting."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import pandas as pd

from analysis.errors import AnalysisError
from analysis.records import history, intruder_tables
from analysis.views.drawing.page import Page
from analysis.views.drawing.series import SETTING

log = logging.getLogger(__name__)

CARRIED = ["id", "seed", *SETTING]
BINS = 30
"""Steps are averaged into at most so many bins: more than a panel two inches wide can show."""


def histories(table: pd.DataFrame, column: str | Callable[[dict[str, Any]], str]) -> pd.DataFrame:
    """Return step, tokens and ``value`` of each line of the runs' histories that has the column."""
    found = []
    for run in table.to_dict("records"):
        lines, name = history(run["folder"]), column if isinstance(column, str) else column(run)
        if not lines.empty and name in lines:
            lines = lines[lines[name].notna()]
            values = {"step": lines["step"], "tokens": lines["tokens"], "value": lines[name].astype("float64")}
            found.append(pd.DataFrame(values).assign(**{name: run[name] for name in CARRIED}))
    return _joined(found, ["step", "tokens", "value", *CARRIED])


def binned(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each run's values over bins of steps, all bins of one width; ``step`` is a bin's middle."""
    width = max(1.0, float(rows["step"].max()) / BINS)
    middle = ((rows["step"] - 1) // width + 0.5) * width + 0.5
    groups = rows.assign(step=middle).groupby([*CARRIED, "step"], dropna=False, sort=False)
    return groups[["tokens", "value"]].mean().reset_index()


def tables(table: pd.DataFrame, name: str, keep: Callable[[pd.DataFrame], pd.Series[bool]]) -> pd.DataFrame:
    """Return the rows to keep of every run's intruder table of this name."""
    found = []
    for run in table.to_dict("records"):
        rows = _table(run["folder"], name)
        if rows is not None and not rows.empty:
            rows = rows[keep(rows)].drop(columns="run", errors="ignore")
            found.append(rows.assign(**{key: run[key] for key in CARRIED}))
    return _joined(found, CARRIED)


def _table(folder: str, name: str) -> pd.DataFrame | None:
    """Return a run's table; a damaged one is said once, and the other runs are still drawn."""
    try:
        return intruder_tables(folder, name).get(name)
    except AnalysisError as error:
        _say_once(str(error))
        return None


@cache
def _say_once(line: str) -> None:
    log.warning("left out: %s", line)


def _joined(found: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    found = [rows for rows in found if not rows.empty]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def at_end(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows are of the end of training, whose step is missing, against the untouched weights."""
    return rows["step"].isna() & (rows["reference"] == "w0")


def learned(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows are of what training changed: over a quantised base that is the change against this base.

    Against the weights before quantising it would hold the rounding too, which has full rank.
    """
    quantised = bool((rows["reference"] == "dequantised").any())
    return rows["step"].isna() & (rows["reference"] == ("dequantised" if quantised else "w0"))


def finetuned(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows are of fine-tuning itself and of no null control."""
    return rows["control"] == "none"


TOP = 10
"""The paper's k: only a matrix's largest tuned singular vectors are called intruders."""


@lru_cache(maxsize=1)
def similarities(page: Page) -> pd.DataFrame:
    """Return the similarity tables of all runs at the end of training, against the untouched weights."""
    return tables(page.every_rate, "similarity", at_end)


def clearest(rows: pd.DataFrame) -> dict[str, Any]:
    """Return run, matrix and which of its top tuned vectors has the least largest |cos| with the base vectors."""
    top = rows[rows["tuned_index"] < TOP]
    most = top.groupby(["id", "matrix", "tuned_index"], sort=False)["cos"].max().reset_index()
    found: dict[str, Any] = most.loc[most["cos"].idxmin()].to_dict()
    return found


def same_probe(table: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose forgetting is that of the most common probe, metric and version: no others compare."""
    known = table[table["forgetting"].notna()]
    if known.empty:
        return known
    kinds = known["forgetting_name"].astype(str) + " " + known["forgetting_version"].astype(str)
    return known[kinds == kinds.value_counts().index[0]]


def _parts(run: dict[str, Any]) -> tuple[str, str]:
    """Return the probe's label, which has no space, and its metric."""
    label, _, metric = str(run["forgetting_name"]).partition(" ")
    return label, metric


def column_of(run: dict[str, Any]) -> str:
    """Return where a run's history has the metric."""
    return "forgetting/{}/{}".format(*_parts(run))


def base_of(run: dict[str, Any]) -> float:
    """Return the untouched model's value; 0 for a metric that is a comparison with it, such as a divergence."""
    value = run.get("probe.{}.{}.base".format(*_parts(run)))
    return 0.0 if value is None or pd.isna(value) else float(value)


def forgetting_label(table: pd.DataFrame) -> str:
    """Return the metric's name and which way is worse."""
    if table.empty:
        return ""
    higher = table["forgetting_higher_is_better"].iloc[0]
    worse = "" if pd.isna(higher) else f" ({'lower' if higher else 'higher'} = more forgotten)"
    return f"{table['forgetting_name'].iloc[0]}{worse}"


def change_of(label: str) -> list[str]:
    """Return an axis label of two lines: what changes, and which way is worse."""
    return f"change of {label}".replace(" (", "\n(").splitlines()
