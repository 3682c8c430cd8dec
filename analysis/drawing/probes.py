"""The headline metric of forgetting: which runs have the same, and what it was before training."""

from __future__ import annotations

from typing import Any

import pandas as pd


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
