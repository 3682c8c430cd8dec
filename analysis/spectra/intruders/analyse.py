"""One matrix → rows of the tables; many matrices, one after the other or shared among processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.intruders import Settings
from analysis.spectra import measures as spectra
from analysis.spectra.changes import Change, Dense, LowRank, Matrix
from analysis.spectra.intruders.bounds import Numbers
from analysis.spectra.intruders.controls import Null, drawn
from analysis.spectra.intruders.detection import Detection, Detector, Side
from analysis.spectra.intruders.eigen import Eigen
from analysis.spectra.intruders.reference import Reference
from analysis.spectra.processes import each, processes
from analysis.spectra.weights import Pair
from harness.errors import ConfigError
from harness.storage.privacy import expanded

Row = dict[str, Any]


@dataclass
class Rows:
    """Rows for each table."""

    vectors: list[Row] = field(default_factory=list)
    counted: list[Row] = field(default_factory=list)
    """What is counted: a row for each matrix and change, its ``cosines`` of shape (draws, 4, k): left, left by
    clusters, right, right by clusters; one draw where the change is not random."""
    matrices: list[Row] = field(default_factory=list)
    spectra: list[Row] = field(default_factory=list)
    similarity: list[Row] = field(default_factory=list)
    angles: list[Row] = field(default_factory=list)

    def extend(self, other: Rows) -> None:
        """Append another's rows."""
        for name, rows in self.each():
            rows.extend(getattr(other, name))

    def each(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield the name and the rows of each table."""
        yield from ((one.name, getattr(self, one.name)) for one in fields(self))


def device_of(settings: Settings) -> torch.device:
    """Return the device asked for, else a GPU where there is one."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", "cuda", "there is none")
    return torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def cache_folder(settings: Settings) -> Path:
    """Return where decompositions are kept."""
    from harness.storage.assets import cache_root

    return expanded(settings.cache) if settings.cache else cache_root(None) / "spectra"


def detector(matrix: Matrix, settings: Settings) -> Detector:
    """Return the chosen algorithm over a matrix."""
    if settings.algorithm == "svd":
        return Reference(matrix.base, settings.k, settings.cluster)
    return Eigen(matrix.base, settings.k, settings.eps, settings.cluster, cache_folder(settings))


def measure(pair: Pair, settings: Settings, run: str, name: str) -> Rows:
    """Return all rows of one of a pair's matrices; the random controls depend on the seed, the run and the matrix."""
    rows = Rows()
    for stored in pair.load(name):
        matrix = stored.to(device_of(settings))
        rows.matrices.append(_matrix_row(matrix, settings))
        if matrix.change.squared_norm() > 0:
            rows.extend(_detected(matrix, settings, run))
        if settings.spectra:
            rows.spectra.extend(_spectra(matrix))
    return rows


def _detected(matrix: Matrix, settings: Settings, run: str) -> Rows:
    """Return the tuned vectors of a matrix, and those of its null controls."""
    found, rows = detector(matrix, settings), Rows()
    changes: dict[str, Change] = {"none": matrix.change}
    if settings.controls and matrix.floor is not None:
        changes["quantisation"] = matrix.floor
    for control, change in changes.items():
        detection = found.detect(change)
        rows.vectors.extend(_vector_rows(matrix, control, change, detection, settings))
        rows.counted.append(_counted(matrix, control, _cosines(detection.left, detection.right)[None]))
    if settings.controls:
        random = _random(matrix, found.sigma, settings, run)
        rows.counted.extend(_counted(matrix, control, cosines) for control, cosines in random.items())
    if settings.similarity != 0:
        rows.extend(_similarity(matrix, None if settings.similarity == "whole" else settings.similarity))
    return rows


def _random(matrix: Matrix, sigma: torch.Tensor, settings: Settings, run: str) -> dict[str, Numbers]:
    """Return the cosines of each random control, left before right."""
    change, (out, inner) = matrix.change, matrix.shape
    rank = change.a.shape[0] if isinstance(change, LowRank) else None
    null = Null(sigma, max(out, inner), change_spectrum(change).double().cpu(), rank)
    stream = f"{settings.seed} {run} {matrix.name} {matrix.reference}"
    found = drawn(null, stream, settings.draws, settings.k, settings.cluster)
    # near and far of a tall matrix are right and left
    return {control: cosines[:, [2, 3, 0, 1]] if out > inner else cosines for control, cosines in found.items()}


def _cosines(*sides: Side) -> Numbers:
    return np.stack([row for side in sides for row in (side.cos, side.cluster)])


def _counted(matrix: Matrix, control: str, cosines: Numbers) -> Row:
    return _labels(matrix) | {"control": control, "cosines": cosines}


def _labels(matrix: Matrix) -> Row:
    return {"matrix": matrix.name, "layer": matrix.layer, "kind": matrix.kind, "reference": matrix.reference}


def _vector_rows(matrix: Matrix, control: str, change: Change, found: Detection, settings: Settings) -> list[Row]:
    norm = change.squared_norm() or 1.0
    exact = change.double()
    along_u = exact.transposed_times(found.top.u).square().sum(0) / norm
    along_v = exact.times(found.top.v).square().sum(0) / norm
    return [
        _labels(matrix)
        | {"control": control, "index": j, "sigma": float(found.top.s[j])}
        | _side_row(found.left, j, "u", settings.eps)
        | _side_row(found.right, j, "v", settings.eps)
        | {"energy_u": float(along_u[j]), "energy_v": float(along_v[j])}
        for j in range(len(found.top.s))
    ]


def _side_row(side: Side, j: int, name: str, eps: float) -> Row:
    return {
        f"cos_{name}": float(side.cos[j]),
        f"bound_{name}": float(side.bound[j]),
        f"cluster_{name}": float(side.cluster[j]),
        f"intruder_{name}": bool(side.cos[j] < eps),
        f"decided_{name}": side.decided[j],
    }


def _matrix_row(matrix: Matrix, settings: Settings) -> Row:
    """Return a matrix's size and how large its change is; the spectrum of a low-rank change comes from its factors."""
    change, base = matrix.change, float(matrix.base.double().norm())
    row = _labels(matrix) | {
        "rows": matrix.shape[0],
        "columns": matrix.shape[1],
        "dtype": matrix.dtype,
        "rank": change.a.shape[0] if isinstance(change, LowRank) else None,
        "algorithm": settings.algorithm,
        "base_norm": base,
        "change_norm": change.squared_norm() ** 0.5,
        "relative_norm": change.squared_norm() ** 0.5 / base,
    }
    s = (
        change_spectrum(change)
        if isinstance(change, LowRank) or settings.spectra or settings.algorithm == "svd"
        else None
    )
    names = ("change_spectral_norm", "change_effective_rank", "change_stable_rank", "change_k90")
    if s is None:
        return row | dict.fromkeys(names)
    values = (float(s[0]), spectra.effective_rank(s), spectra.stable_rank(s), spectra.energy_rank(s))
    return row | dict(zip(names, values, strict=True))


def change_spectrum(change: Change) -> torch.Tensor:
    """Return the singular values of a change, from its factors where it has them."""
    if isinstance(change, Dense):
        return spectra.singular_values(change.delta)
    return spectra.low_rank_svd(change.b.double(), change.a.double()).s


def _spectra(matrix: Matrix) -> list[Row]:
    """Return every singular value of W0, W and the change."""
    tuned = matrix.base + matrix.change.dense()
    values = {
        "base": spectra.singular_values(matrix.base),
        "tuned": spectra.singular_values(tuned),
        "change": change_spectrum(matrix.change),
    }
    return [
        _labels(matrix) | {"of": name, "index": i, "sigma": float(sigma)}
        for name, s in values.items()
        for i, sigma in enumerate(s.tolist())
    ]


def _similarity(matrix: Matrix, n: int | None) -> Rows:
    """Return |cos| of the first n base with the first n tuned left vectors, and the angles between their spans."""
    base, tuned = (torch.linalg.svd(w, full_matrices=False) for w in (matrix.base, matrix.base + matrix.change.dense()))
    cosines = spectra.similarity_matrix(base.U[:, :n], tuned.U[:, :n]).cpu().numpy()
    rows = Rows()
    rows.similarity = [
        _labels(matrix) | {"base_index": int(i), "tuned_index": int(j), "cos": float(cosines[i, j])}
        for i, j in np.ndindex(*cosines.shape)
    ]
    for side, one, other in (("u", base.U, tuned.U), ("v", base.Vh.T, tuned.Vh.T)):
        found = spectra.principal_cosines(one[:, :n], other[:, :n])
        rows.angles += [_labels(matrix) | {"side": side} | angle for angle in angle_rows(found)]
    return rows


def angle_rows(cosines: torch.Tensor) -> list[Row]:
    """Return principal angles, the smallest first."""
    degrees = torch.rad2deg(torch.arccos(cosines.double())).tolist()
    return [
        {"index": i, "cos": cos, "degrees": angle}
        for i, (cos, angle) in enumerate(zip(cosines.tolist(), degrees, strict=True))
    ]


def measure_all(pair: Pair, settings: Settings, run: str) -> Iterator[Rows]:
    """Yield the rows of each matrix in order, `jobs` processes sharing the work."""
    jobs = processes(settings.jobs, len(pair.names), device_of(settings).type)
    return each(partial(measure, pair, settings, run), pair.names, jobs)
