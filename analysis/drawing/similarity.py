"""Similarities of base and tuned singular vectors: all runs', and the least similar tuned vector among them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.drawing.sources import at_end, tables

TOP = 10
"""The paper's k: only a matrix's largest tuned singular vectors are called intruders."""


def similarities(table: pd.DataFrame) -> pd.DataFrame:
    """Return the similarity tables of all runs at the end of training, against the untouched weights."""
    return tables(table, "similarity", at_end)


def clearest(rows: pd.DataFrame) -> dict[str, Any]:
    """Return run, matrix and which of its top tuned vectors has the least largest |cos| with the base vectors."""
    top = rows[rows["tuned_index"] < TOP]
    most = top.groupby(["id", "matrix", "tuned_index"], sort=False)["cos"].max().reset_index()
    found: dict[str, Any] = most.loc[most["cos"].idxmin()].to_dict()
    return found
