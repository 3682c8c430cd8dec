"""What the tidy table says of a run's weight change, from the tables that the intruder analysis left beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.records.files import intruder_tables

USUAL_EPS = 0.5
"""The papers' ε; tables hold a grid of ε besides the one that was chosen."""
COUNTS = {
    "intruders": ("none", "u", False),
    "intruders_clustered": ("none", "u", True),
    "intruders_v": ("none", "v", False),
    "intruders_null_dense": ("dense", "u", False),
    "intruders_null_rank": ("low_rank", "u", False),
}
"""Column → null control, side, whether near-equal base values count as one subspace."""


def intruder_columns(folder: Path) -> dict[str, Any]:
    """Return the counts at the end of training against W0, at the analysis' own k and ε, and the change's size.

    Empty where the run was not analysed, or its method changes no matrix: not applicable is not zero. Raises
    :class:`AnalysisError` for damaged tables.
    """
    tables = intruder_tables(folder)
    cells: dict[str, Any] = {}
    if "counts" in tables and "vectors" in tables:
        cells |= _counts(_end(tables["counts"]), _end(tables["vectors"]))
    if "matrices" in tables:
        cells |= _changes(_end(tables["matrices"]))
    return cells


def _end(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the end of training, whose step is missing, against W0."""
    step = table["step"]
    last = step.isna() if step.isna().any() else step == step.max()
    return table[last & (table["reference"] == "w0")]


def _counts(counts: pd.DataFrame, vectors: pd.DataFrame) -> dict[str, Any]:
    total = counts[counts["by"] == "all"]
    if total.empty:
        return {}
    k, eps = int(total["k"].max()), _chosen_eps(total, vectors[vectors["control"] == "none"])
    chosen = total[(total["k"] == k) & (total["eps"] == eps)]
    found = chosen.set_index(["control", "side", "clustered"])["intruders"]
    cells = {name: int(found[key]) for name, key in COUNTS.items() if key in found.index}
    return cells | {"intruders_k": k, "intruders_eps": eps}


def _chosen_eps(total: pd.DataFrame, vectors: pd.DataFrame) -> float:
    """Return the ε with which the analysis marked its vectors: the papers' where it explains every mark."""
    grid = sorted(total["eps"].unique(), key=lambda eps: abs(eps - USUAL_EPS))
    marks = vectors["intruder_u"]
    return float(next((eps for eps in grid if ((vectors["cos_u_high"] < eps) == marks).all()), grid[0]))


def _changes(matrices: pd.DataFrame) -> dict[str, Any]:
    means = {"relative_change": "relative_norm", "effective_rank": "change_effective_rank"}
    return {name: float(matrices[column].mean()) for name, column in means.items() if matrices[column].notna().any()}
