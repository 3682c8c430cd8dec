"""The tables: vectors, matrices, counts over grids of k and ε; tidy Parquet, each written whole or not at all.

In a run's folder they are the files of ``analysis/``, which other modules read by these names:

intruders.json      the headline: a list of one entry for each optimiser step (null: the end of training), reference
                    (``w0``, ``dequantised``) and change (``none``: fine-tuning itself; the null controls ``spectrum``,
                    ``low_rank``, ``dense``, ``quantisation``), with the counts at the chosen k and ε, and what of
                    them exceeds the control ``spectrum``; see :func:`headline`
counts.parquet      intruders over grids of k and ε, in all and by layer and module kind; of a random control the
                    median of its draws, with their 5 % and 95 % quantiles
vectors.parquet     each tuned vector: σ, max |cos| and how far it can be off, share of the change
matrices.parquet    each matrix: sizes, norms and ranks of the change
spectra.parquet     every singular value of W0, W and ΔW, where asked for
similarity.parquet, angles.parquet    |cos| of base and tuned left vectors, principal angles of their spans, likewise
subspaces.parquet, subspace_angles.parquet    of ``analysis.spectra.subspaces``: a run's change beside another run's
lambda.parquet, lambda_items.parquet, lambda_vectors.parquet    of ``analysis.spectra.interventions``

Columns are in `SCHEMAS`. Every row names its ``run``, and ``step`` where checkpoints were measured too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.intruders import Settings
from analysis.records.files import HEADLINE
from analysis.spectra.intruders.analyse import Row, Rows
from analysis.spectra.intruders.controls import MAIN
from harness.storage.files import write_bytes, write_json

EPS_GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""ε from .05 to .95; by chance alone max|cos| is about √(2 ln n / n), .13 at n = 768: nothing below that means much."""
GROUPS = ("all", "layer", "kind")
WAYS = (("u", False), ("u", True), ("v", False), ("v", True))
"""Side and whether clusters of near-equal values count as one, in the order of ``cosines``."""
QUANTILES = (0.05, 0.5, 0.95)
Counts = NDArray[np.int64]


def count_rows(counted: list[Row], settings: Settings) -> list[Row]:
    """Return the intruders for each k and ε, over all matrices, by layer and by module kind."""
    frames = _split(counted, ("run", "step", "reference", "control"))
    return [row for labels, rows in frames for row in _grid(rows, labels, settings)]


def _split(rows: list[Row], keys: tuple[str, ...]) -> list[tuple[Row, list[Row]]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [(dict(zip(keys, values, strict=True)), group) for values, group in found.items()]


def _grid(rows: list[Row], labels: Row, settings: Settings) -> Iterator[Row]:
    grid = np.array(sorted({*EPS_GRID, settings.eps}))
    groups = [("all", "", rows)]
    groups += [(by, str(label[by]), some) for by in GROUPS[1:] for label, some in _split(rows, (by,))]
    for by, value, some in groups:
        found, size = counts_of(some, grid), {"matrices": len(some), "draws": len(some[0]["cosines"])}
        low, middle, high = np.quantile(found, QUANTILES, axis=0)
        for way, k, at in np.ndindex(*middle.shape):
            side, clustered = WAYS[way]
            where = labels | {"by": by, "value": value, "side": side, "clustered": clustered}
            count = {"intruders": middle[way, k, at], "low": low[way, k, at], "high": high[way, k, at]}
            yield where | {"k": k + 1, "eps": grid[at], **count, "vectors": (k + 1) * len(some), **size}


def counts_of(rows: list[Row], grid: NDArray[np.float64]) -> Counts:
    """Return the intruders of some matrices together, shape (draws, 4, k, ε): below each ε of the first k vectors."""
    return sum(
        ((row["cosines"][..., None] < grid).cumsum(axis=2) for row in rows),
        np.zeros((1, len(WAYS), 1, len(grid)), dtype=np.int64),
    )


def write(rows: Rows, out: Path, settings: Settings) -> list[Row]:
    """Write the tables and return the entries of the headline."""
    counts = count_rows(rows.counted, settings)
    tables = {"vectors": rows.vectors, "matrices": rows.matrices, "counts": counts}
    if settings.spectra:
        tables["spectra"] = rows.spectra
    if settings.similarity != 0:
        tables |= {"similarity": rows.similarity, "angles": rows.angles}
    for name, some in tables.items():
        write_bytes(out / f"{name}.parquet", parquet(some, SCHEMAS[name]))
    entries = headline(rows, settings)
    write_json(out / HEADLINE, entries)
    return entries


def headline(rows: Rows, settings: Settings) -> list[Row]:
    """Return the counts at the chosen k and ε in one entry for each step, reference and change.

    ``intruders_u`` counts left vectors, the paper's count, ``intruders_v`` right ones; ``_clustered`` is the
    cluster-aware count. Of a random control these are medians, with ``_low`` and ``_high`` quantiles and every draw's
    count in ``draws``. Fine-tuning itself has what exceeds the median of the control ``spectrum`` (``_excess``) and
    the chance that one of its draws counts as many, p = (1 + #{draws ≥ count}) / (1 + draws) (``_p``; Davison &
    Hinkley 1997, section 4.2). ``relative_change`` and ``effective_rank`` are means over matrices of ‖ΔW‖/‖W0‖ and of
    ΔW's effective rank, null where that was not computed.
    """
    said = {name: getattr(settings, name) for name in ("k", "eps", "algorithm", "seed", "cluster")}
    said |= {"modules": list(settings.modules)}
    entries = []
    for place, some in _split(rows.counted, ("run", "step", "reference")):
        means = _means([row for row in rows.matrices if place.items() <= row.items()])
        found = {label["control"]: own for label, own in _split(some, ("control",))}
        totals = {control: _totals(own, settings.eps) for control, own in found.items()}
        for control, counts in totals.items():
            size = {"vectors": settings.k * len(found[control]), "matrices": len(found[control])}
            beside = totals.get(MAIN) if control == "none" else None
            entries.append(place | {"control": control} | said | size | _counts(counts, beside) | means)
    return entries


def _totals(rows: list[Row], eps: float) -> Counts:
    """Return the count of each draw, each way: shape (draws, 4)."""
    return counts_of(rows, np.array([eps]))[:, :, -1, 0]


def _counts(counts: Counts, beside: Counts | None) -> Row:
    found: Row = {}
    for way, (side, clustered) in enumerate(WAYS):
        name, own = f"intruders_{side}{'_clustered' if clustered else ''}", counts[:, way]
        low, middle, high = np.quantile(own, QUANTILES).tolist()
        found[name] = middle if len(own) > 1 else int(own[0])
        if len(own) > 1:
            found |= {f"{name}_low": low, f"{name}_high": high, "draws": found.get("draws", {}) | {name: own.tolist()}}
        if beside is not None:
            found[f"{name}_excess"] = middle - float(np.median(beside[:, way]))
            found[f"{name}_p"] = float((1 + (beside[:, way] >= own[0]).sum()) / (1 + len(beside)))
    return found


def _means(matrices: list[Row]) -> Row:
    ranks = [row["change_effective_rank"] for row in matrices if row["change_effective_rank"] is not None]
    return {
        "relative_change": mean(row["relative_norm"] for row in matrices),
        "effective_rank": mean(ranks) if ranks else None,
    }


def parquet(rows: list[Row], columns: dict[str, str]) -> bytes:
    """Return rows as a Parquet file; the columns are the same whatever the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in columns.items()])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return bytes(sink.getvalue().to_pybytes())


_LABELS = {
    "run": "string",
    "step": "int64",
    "matrix": "string",
    "layer": "int64",
    "kind": "string",
    "reference": "string",
}
_SIDES = {
    f"{column}_{side}": kind
    for side in ("u", "v")
    for column, kind in (
        ("cos", "float64"),
        ("bound", "float64"),
        ("cluster", "float64"),
        ("intruder", "bool_"),
        ("decided", "string"),
        ("energy", "float64"),
    )
}
SCHEMAS: dict[str, dict[str, str]] = {
    "vectors": _LABELS | {"control": "string", "index": "int64", "sigma": "float64"} | _SIDES,
    "matrices": _LABELS
    | {"rows": "int64", "columns": "int64", "dtype": "string", "rank": "int64", "algorithm": "string"}
    | dict.fromkeys(("base_norm", "change_norm", "relative_norm", "change_spectral_norm"), "float64")
    | {"change_effective_rank": "float64", "change_stable_rank": "float64", "change_k90": "int64"},
    "counts": {"run": "string", "step": "int64", "reference": "string", "control": "string", "by": "string"}
    | {"value": "string", "side": "string", "clustered": "bool_", "k": "int64", "eps": "float64"}
    | dict.fromkeys(("intruders", "low", "high"), "float64")
    | dict.fromkeys(("vectors", "matrices", "draws"), "int64"),
    "spectra": _LABELS | {"of": "string", "index": "int64", "sigma": "float64"},
    "similarity": _LABELS | {"base_index": "int64", "tuned_index": "int64", "cos": "float64"},
    "angles": _LABELS | {"side": "string", "index": "int64", "cos": "float64", "degrees": "float64"},
}
"""Column → Arrow type, of every table."""
