"""How alike two runs' weight changes are: ``python -m analysis.subspaces runs/<id> runs/<id>``.

φ(i, j) = ‖U_iᵀ U'_j‖_F² / min(i, j) between the spans of the first i singular vectors of one ΔW and the first j of the
other (LoRA, arXiv 2106.09685, section 7.2, which takes the right singular vectors of the factor A; those of ΔW = s B A
span the same rows, and exist for full fine-tuning too). By chance φ is max(i, j) / n in n dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.command import require
from analysis.subspaces import Settings
from harness.errors import ConfigError, NotApplicable
from harness.storage.privacy import expanded

if TYPE_CHECKING:
    from analysis.spectra.weights import Pair

Row = dict[str, Any]
_LABELS = dict.fromkeys(("run", "other", "matrix", "kind", "side"), "string") | {"layer": "int64"}
SUBSPACES = _LABELS | {"i": "int64", "j": "int64", "phi": "float64", "chance": "float64"}
ANGLES = _LABELS | {"index": "int64", "cos": "float64", "degrees": "float64"}
"""Column → Arrow type of ``subspaces.parquet`` and ``subspace_angles.parquet``."""


def compare(pairs: tuple[Pair, Pair], n: int, name: str) -> tuple[list[Row], list[Row]]:
    """Return the rows of one matrix: φ(i, j) for i, j ≤ n on both sides, and the angles between the spans of n."""
    from analysis.spectra.intruders.analyse import angle_rows
    from analysis.spectra.measures import change_factors, principal_cosines, subspace_similarities

    # Over a quantised base the last is the change of what was trained over, which has factors.
    one, other = (pair.load(name)[-1] for pair in pairs)
    first, second = change_factors(one.change, n), change_factors(other.change, n)
    similar, angles = [], []
    for side, a, b in (("u", first.u, second.u), ("v", first.v, second.v)):
        place = {"matrix": name, "kind": one.kind, "layer": one.layer, "side": side}
        for (i, j), phi in _entries(subspace_similarities(a, b)):
            similar.append(place | {"i": i, "j": j, "phi": phi, "chance": max(i, j) / len(a)})
        angles += [place | row for row in angle_rows(principal_cosines(a, b))]
    return similar, angles


def _entries(phi: Any) -> Iterable[tuple[tuple[int, int], float]]:
    for i, row in enumerate(phi.tolist(), 1):
        yield from (((i, j), value) for j, value in enumerate(row, 1))


def pair_of(run: str, settings: Settings) -> tuple[str, Pair]:
    """Return a run's id and its matrices; raise :class:`NotApplicable` where it has no weight change."""
    from analysis.intruders import Settings as Counting
    from analysis.spectra.intruders.sources import jobs

    (job,) = jobs(Counting(runs=(run,), modules=settings.modules))
    if job.failed:
        raise ConfigError("run", run, f"the run is not done but {job.reason}")
    if job.reason:
        raise NotApplicable(f"{job.name}: n/a: {job.reason}")
    return job.name, job.steps[-1][1]


def shared_names(pairs: Sequence[tuple[str, Pair]], runs: Sequence[str]) -> list[str]:
    """Return the matrices that both runs changed; raise :class:`ConfigError` where there are none in one shape."""
    (_, one), (_, other) = pairs
    names = [name for name in one.names if name in set(other.names)]
    require(bool(names), "run", runs[1], f"changed no matrix that {runs[0]} changed")
    for name in names:
        shapes = [" x ".join(map(str, pair.base.shapes[name])) for pair in (one, other)]
        require(shapes[0] == shapes[1], "run", runs[1], f"{name} is {shapes[1]}, in {runs[0]} {shapes[0]}: two bases")
    return names


def run(settings: Settings) -> None:
    """Compare, write the tables and print the means over matrices."""
    from analysis.spectra.intruders.tables import parquet
    from analysis.spectra.processes import each, processes
    from harness.storage.files import require_writable, write_bytes

    pairs = [pair_of(name, settings) for name in settings.runs]
    names = shared_names(pairs, settings.runs)
    out = expanded(settings.out or Path(settings.runs[0]) / "analysis")
    require_writable(out, 2**20)
    work = partial(compare, (pairs[0][1], pairs[1][1]), settings.n)
    labels = {"run": pairs[0][0], "other": pairs[1][0]}
    similar: list[Row] = []
    angles: list[Row] = []
    for some, more in each(work, names, processes(settings.jobs, len(names))):
        similar += [labels | row for row in some]
        angles += [labels | row for row in more]
    for name, rows, columns in (("subspaces", similar, SUBSPACES), ("subspace_angles", angles, ANGLES)):
        path = out / f"{name}.parquet"
        write_bytes(path, parquet([*_others(path, labels), *rows], columns))
    summary(similar, labels, len(names))
    print(f"tables: {out}")


def _others(path: Path, labels: dict[str, str]) -> list[Row]:
    """Return a table's rows of other pairs of runs."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist() if path.exists() else []
    return [row for row in rows if (row["run"], row["other"]) != (labels["run"], labels["other"])]


def summary(rows: list[Row], labels: dict[str, str], matrices: int) -> None:
    """Print the mean φ(i, i) of both sides beside what chance gives."""
    from statistics import mean

    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from analysis.spectra.intruders.summary import wide_console

    console = wide_console()
    console.print(f"{labels['run']} and {labels['other']}: mean φ(i, i) over {matrices} matrices", markup=False)
    table = Table("i", "left", "by chance", "right", "by chance", box=SIMPLE_HEAD)
    for i in sorted({row["i"] for row in rows if row["i"] == row["j"]}):
        here = [row for row in rows if row["i"] == row["j"] == i]
        sides = [[row for row in here if row["side"] == side] for side in ("u", "v")]
        table.add_row(str(i), *(f"{mean(row[key] for row in side):.3f}" for side in sides for key in ("phi", "chance")))
    console.print(table)
