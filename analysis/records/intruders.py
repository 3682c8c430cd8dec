"""What the tidy table says of a run's weight change, from the headline that the intruder analysis left beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.records.files import intruder_headline
from harness.compose import register
from harness.methods.base import METHODS

COUNTS = {
    "intruders_excess": ("none", "intruders_u_excess"),
    "intruders_p": ("none", "intruders_u_p"),
    "intruders": ("none", "intruders_u"),
    "intruders_clustered": ("none", "intruders_u_clustered"),
    "intruders_v": ("none", "intruders_v"),
    "intruders_null": ("spectrum", "intruders_u"),
    "intruders_null_low": ("spectrum", "intruders_u_low"),
    "intruders_null_high": ("spectrum", "intruders_u_high"),
    "intruders_null_rank": ("low_rank", "intruders_u"),
    "intruders_null_dense": ("dense", "intruders_u"),
    "intruders_floor": ("quantisation", "intruders_u"),
}
"""Column → the change (fine-tuning itself or a null control) and its count; of random changes the median of draws."""
FACTS = {"intruders_k": "k", "intruders_eps": "eps"} | {name: name for name in ("relative_change", "effective_rank")}


def changes_no_matrix(method: str) -> bool:
    """Return whether a method leaves the base's matrices as they were: a count would mean nothing."""
    register()
    return method in METHODS.names() and METHODS[method].leaves_matrices is not None


def intruder_columns(folder: Path) -> dict[str, Any]:
    """Return the counts at the end of training against W0, at the analysis' own k and ε, and the change's size.

    Empty where the run was not analysed, or its method changes no matrix: not applicable is not zero. Raises
    :class:`AnalysisError` for a damaged headline.
    """
    entries = [entry for entry in intruder_headline(folder) if entry.get("reference") == "w0"]
    steps = [entry["step"] for entry in entries if entry.get("step") is not None]
    last = None if len(steps) < len(entries) else max(steps, default=None)  # null is the end of training
    found = {entry["control"]: entry for entry in entries if entry.get("step") == last}
    cells = {name: found[control].get(key) for name, (control, key) in COUNTS.items() if control in found}
    tuned = found.get("none", {})
    return cells | {name: tuned.get(key) for name, key in FACTS.items()}
