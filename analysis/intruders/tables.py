"""The tables: vectors, matrices, counts over grids of k and ε; tidy Parquet, each written whole or not at all.

In a run's folder they are the files of ``analysis/``, which other modules read by these names:

intruders.json      the headline: a list of one entry for each optimiser step (null: the end of training), reference
                    (``w0``, ``dequantised``) and change (``none``: fine-tuning itself; the null controls ``dense``,
                    ``low_rank``, ``quantisation``), with the counts at the chosen k and ε; see :func:`headline`
counts.parquet      intruders over grids of k and ε, in all and by layer and module kind
vectors.parquet     each tuned vector: σ, bounds on max |cos|, share of the change
matrices.parquet    each matrix: sizes, norms and ranks of the change
spectra.parquet     every singular value of W0, W and ΔW, where asked for
similarity.parquet, angles.parquet    |cos| of base and tuned left vectors, principal angles of their spans, likewise
subspaces.parquet, subspace_angles.parquet    of ``analysis.subspaces``: a run's change beside another run's
lambda.parquet, lambda_items.parquet, lambda_vectors.parquet    of ``analysis.interventions``

Columns are in `SCHEMAS`. Every row names its ``run``, and ``step`` where checkpoints were measured too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.intruders.analyse import Row, Rows
from analysis.intruders.settings import Settings
from harness.storage.files import write_bytes, write_json

EPS_GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""ε from .05 to .95; by chance alone max|cos| is about √(2 ln n / n), .13 at n = 768: nothing below that means much."""
GROUPS = ("all", "layer", "kind")


def count_rows(vectors: list[Row], settings: Settings) -> list[Row]:
    """Return the intruders for each k and ε, over all matrices, by layer and by module kind."""
    frames = _split(vectors, ("run", "step", "reference", "control"))
    return [row for labels, rows in frames for row in _grid(rows, labels, settings)]


def _split(rows: list[Row], keys: tuple[str, ...]) -> list[tuple[Row, list[Row]]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [(dict(zip(keys, values, strict=True)), group) for values, group in found.items()]


def _grid(rows: list[Row], labels: Row, settings: Settings) -> Iterator[Row]:
    groups = [("all", "", rows)]
    groups += [(by, str(label[by]), some) for by in GROUPS[1:] for label, some in _split(rows, (by,))]
    for by, value, some in groups:
        for side in ("u", "v"):
            for clustered in (False, True):
                where = labels | {"by": by, "value": value, "side": side, "clustered": clustered}
                yield from _counts(some, where, settings)


def _counts(rows: list[Row], labels: Row, settings: Settings) -> Iterator[Row]:
    """Count the first k vectors of each matrix below each ε; what bounds leave open is counted apart."""
    measure = "cluster" if labels["clustered"] else "cos"
    low, high = (_column(rows, f"{measure}_{labels['side']}_{end}") for end in ("low", "high"))
    index = _column(rows, "index")
    eps = np.array(sorted({*EPS_GRID, settings.eps}))
    below, open_ = high[:, None] < eps, (low[:, None] < eps) & (high[:, None] >= eps)
    first = (index < np.arange(1, settings.k + 1)[:, None]).astype(int)
    intruders, undecided, vectors = (first @ below).tolist(), (first @ open_).tolist(), first.sum(1).tolist()
    matrices = len({row["matrix"] for row in rows})
    for k in range(settings.k):
        for at, value in enumerate(eps.tolist()):
            counts = {"intruders": intruders[k][at], "undecided": undecided[k][at], "vectors": vectors[k]}
            yield {**labels, "k": k + 1, "eps": value, **counts, "matrices": matrices}


def _column(rows: list[Row], name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in rows], dtype=np.float64)


def write(rows: Rows, out: Path, settings: Settings) -> list[Row]:
    """Write the tables and return the rows of the counts."""
    counts = count_rows(rows.vectors, settings)
    tables = {"vectors": rows.vectors, "matrices": rows.matrices, "counts": counts}
    if settings.spectra:
        tables["spectra"] = rows.spectra
    if settings.similarity != 0:
        tables |= {"similarity": rows.similarity, "angles": rows.angles}
    for name, some in tables.items():
        write_bytes(out / f"{name}.parquet", parquet(some, SCHEMAS[name]))
    write_json(out / "intruders.json", headline(rows.matrices, counts, settings))
    return counts


def headline(matrices: list[Row], counts: list[Row], settings: Settings) -> list[Row]:
    """Return the counts at the chosen k and ε in one entry for each step, reference and change.

    ``intruders_u`` counts left vectors, the paper's count, ``intruders_v`` right ones; ``_clustered`` is the
    cluster-aware count and ``_undecided`` how many more it may be, where bounds leave vectors open.
    ``relative_change`` and ``effective_rank`` are means over matrices of ‖ΔW‖/‖W0‖ and of ΔW's effective rank,
    null where that was not computed.
    """
    chosen = [row for row in counts if row["by"] == "all" and row["k"] == settings.k and row["eps"] == settings.eps]
    said = {name: getattr(settings, name) for name in ("k", "eps", "algorithm", "seed", "cluster")}
    return [
        labels
        | said
        | {"modules": list(settings.modules), "vectors": rows[0]["vectors"], "matrices": rows[0]["matrices"]}
        | {name: value for row in rows for name, value in _count(row).items()}
        | _means([row for row in matrices if all(row[key] == labels[key] for key in ("run", "step", "reference"))])
        for labels, rows in _split(chosen, ("run", "step", "reference", "control"))
    ]


def _count(row: Row) -> dict[str, int]:
    name = f"intruders_{row['side']}{'_clustered' if row['clustered'] else ''}"
    return {name: row["intruders"], f"{name}_undecided": row["undecided"]}


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
    f"{column}_{side}{end}": kind
    for side in ("u", "v")
    for column, end, kind in (
        ("cos", "_low", "float64"),
        ("cos", "_high", "float64"),
        ("cluster", "_low", "float64"),
        ("cluster", "_high", "float64"),
        ("intruder", "", "bool_"),
        ("decided", "", "string"),
        ("steps", "", "int64"),
        ("energy", "", "float64"),
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
    | dict.fromkeys(("intruders", "undecided", "vectors", "matrices"), "int64"),
    "spectra": _LABELS | {"of": "string", "index": "int64", "sigma": "float64"},
    "similarity": _LABELS | {"base_index": "int64", "tuned_index": "int64", "cos": "float64"},
    "angles": _LABELS | {"side": "string", "index": "int64", "cos": "float64", "degrees": "float64"},
}
"""Column → Arrow type, of every table."""
