"""One run: choose the vectors, ask the model at each λ what is not known yet, write the curves, print them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.interventions import Settings
from analysis.intruders import Settings as Counting
from analysis.spectra.interventions.examine import Examination
from analysis.spectra.interventions.results import Row, rows
from analysis.spectra.interventions.scaling import Weights
from analysis.spectra.interventions.store import Store
from analysis.spectra.interventions.summary import summary
from analysis.spectra.interventions.vectors import EQUAL, Chosen, Scaling, choose
from analysis.spectra.interventions.verdict import INTRUDER, UNCHANGED, verdicts
from analysis.spectra.intruders.sources import Job, jobs
from analysis.spectra.weights import Pair
from harness.errors import ConfigError
from harness.export import find_run
from harness.forgetting.base import Items
from harness.storage.files import require_writable

Curves = dict[str, list[Scaling]]


def intervene(settings: Settings) -> str | None:
    """Run the whole command; return why there is nothing to scale where that is so.

    Raises a :class:`HarnessError` in one line for what the user can mend.
    """
    folder = find_run(settings.run, settings.output_dir)
    counting = _counting(folder, settings)
    (job,) = jobs(counting)
    if job.reason is not None:
        if job.failed:
            raise ConfigError("run", settings.run, f"the run is not done but {job.reason}")
        return f"{job.name}: n/a: {job.reason}"
    pair = job.steps[-1][1]
    _require_sense(pair, settings)
    examination = Examination.of(folder, settings.split, settings.probes)
    store = Store(folder / "analysis", _identity(examination, settings))
    require_writable(store.folder, 2**20)
    chosen = list(_chosen(pair, counting, settings, job))
    curves = _curves(chosen, settings)
    found = _answers(pair, examination, curves, store, settings)
    table = _tables(examination, store, curves, found, chosen, settings)
    summary(job.name, table, curves, len(chosen), examination, settings)
    if settings.mode == "top":
        _judge(examination, store, found)
    print(f"tables: {store.analysis}")
    return None


def _counting(folder: Path, settings: Settings) -> Counting:
    return Counting(
        runs=(str(folder),),
        k=settings.k,
        eps=settings.eps,
        modules=settings.modules,
        algorithm=settings.algorithm,
        seed=settings.seed,
    )


def _require_sense(pair: Pair, settings: Settings) -> None:
    """Refuse what cannot be measured before anything is computed."""
    for name in pair.names:
        if settings.k > min(pair.base.shapes[name]):
            raise ConfigError("k", settings.k, f"is larger than {name}, {' x '.join(map(str, pair.base.shapes[name]))}")
    if settings.reference == "dequantised" and pair.quantisation is None:
        raise ConfigError("reference", settings.reference, "the run's base was not quantised; allowed: w0")


def _identity(examination: Examination, settings: Settings) -> dict[str, Any]:
    """Return all that the answers depend on, but for λ."""
    known = {name: value for name, value in asdict(settings).items() if name not in ("run", "output_dir", "lambdas")}
    record = examination.record
    probes = {label: [f.probe.version, f.fingerprint] for label, f in examination.probing.fitted.items()}
    run = {"id": record["id"], "started": record.get("started"), "items": examination.probing.prepared.splits}
    return known | {"modules": list(settings.modules), "probes": probes} | run | {"items": run["items"].fingerprint()}


def _chosen(pair: Pair, counting: Counting, settings: Settings, job: Job) -> Iterator[Chosen]:
    from rich.console import Console
    from rich.progress import track

    work = choose(pair, counting, settings.mode, settings.reference, settings.cut)
    console = Console(stderr=True)
    quiet = not sys.stderr.isatty()
    yield from track(work, job.name, total=len(pair.names), console=console, disable=quiet, transient=True)


def _curves(chosen: Sequence[Chosen], settings: Settings) -> Curves:
    """Return what each curve scales; raise where no matrix has an intruder."""
    intruders = [one.intruders for one in chosen if one.intruders]
    if not intruders:
        where = f"no intruder among the top {settings.k} of {len(chosen)} matrices at eps={settings.eps:g}"
        raise ConfigError("run", settings.run, f"{where}: there is nothing to scale; raise eps or k")
    if settings.mode == "mitigation":
        return {"intruders": intruders}
    neighbours = [one.neighbour for one in chosen if one.neighbour]
    equal = {name: [one.equal[name] for one in chosen if one.equal] for name in EQUAL}
    return {INTRUDER: intruders} | ({"neighbour": neighbours} if neighbours else {}) | equal


def _answers(
    pair: Pair, examination: Examination, curves: Curves, store: Store, settings: Settings
) -> dict[tuple[str, float], Items]:
    """Return the answers of every curve at every λ; the model is loaded only where some are not kept."""
    wanted = [(UNCHANGED, 1.0), *((curve, factor) for curve in curves for factor in settings.scales)]
    found = {place: store.read(*place) for place in wanted}
    missing = [place for place in wanted if found[place] is None]
    examination.measure_base()
    weights = _loaded(pair, examination) if missing else None
    for number, (curve, factor) in enumerate(missing, 1):
        assert weights is not None
        with weights.scaled(curves.get(curve, []), factor):
            answers = examination.ask()
        store.write(curve, factor, answers)
        found[curve, factor] = answers
        print(f"[{number}/{len(missing)}] {curve} λ = {factor:g}", file=sys.stderr)
    return {place: items for place, items in found.items() if items is not None}


def _loaded(pair: Pair, examination: Examination) -> Weights:
    """Return the model's matrices, each made W0 + ΔW as it was decomposed."""
    weights = examination.load()
    for name in pair.names:
        weights.set(pair.load(name)[-1])  # over a quantised base the last is dequantised W0 + ΔW, and so is the first
    return weights


def _tables(
    examination: Examination,
    store: Store,
    curves: Curves,
    found: dict[tuple[str, float], Items],
    chosen: Sequence[Chosen],
    settings: Settings,
) -> list[Row]:
    one = found[UNCHANGED, 1.0]
    labels: Row = {"run": examination.record["id"], "key": store.key, "mode": settings.mode}
    said: Row = {"k": settings.k, "eps": settings.eps, "reference": settings.reference, "split": settings.split}
    said |= {"modules": ",".join(settings.modules)}
    table: list[Row] = []
    for curve, scalings in curves.items():
        size = math.sqrt(sum(scaling.removed.squared_norm() for scaling in scalings))
        for factor in sorted({*settings.scales, 1.0}):
            items = one if factor == 1 else found[curve, factor]
            place = labels | said | {"curve": curve, "lambda": factor, "removed": (1 - factor) * size}
            place |= {"matrices": len(scalings)}
            table.extend(place | row for row in rows(examination, one, items))
    outcomes = [
        labels | {"curve": curve, "lambda": factor, "split": split} | asdict(outcome)
        for (curve, factor), items in found.items()
        for split, some in items.items()
        for outcome in some
    ]
    store.write_tables(table, [labels | row for row in _vector_rows(curves, chosen)], outcomes)
    return table


def _judge(examination: Examination, store: Store, found: dict[tuple[str, float], Items]) -> None:
    """Print and keep what the curves show of each probe, of this setting."""
    probing = examination.probing
    probes = {label: fitted.probe for label, fitted in probing.fitted.items()}
    judged = verdicts(probes, {label: measured.items for label, measured in probing.base.items()}, found)
    for one in judged:
        print(one)
    store.write_verdicts([asdict(one) for one in judged])


def _vector_rows(curves: Curves, chosen: Sequence[Chosen]) -> Iterator[Row]:
    labels = {one.matrix: {"matrix": one.matrix, "kind": one.kind, "layer": one.layer} for one in chosen}
    for curve, scalings in curves.items():
        for scaling in scalings:
            place = {"curve": curve} | labels[scaling.matrix]
            for index, sigma, cos in zip(scaling.indices, scaling.sigmas, scaling.cos, strict=True):
                yield place | {"index": index, "sigma": sigma, "cos": cos}
