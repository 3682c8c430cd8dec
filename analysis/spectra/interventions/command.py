"""One run: choose the vectors, ask the model at each λ what is not known yet, write the curves, print them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from analysis.interventions import LOWER, STOPPED, Settings
from analysis.intruders import Settings as Counting
from analysis.spectra.interventions.equal_score import at_equal_score
from analysis.spectra.interventions.examine import Examination
from analysis.spectra.interventions.mitigations import answers_of, lower, stopped
from analysis.spectra.interventions.results import Row, rows
from analysis.spectra.interventions.scaling import Weights
from analysis.spectra.interventions.store import Store
from analysis.spectra.interventions.summary import equal_scores, summary
from analysis.spectra.interventions.vectors import EQUAL, SHRUNK, Chosen, Scaling, choose
from analysis.spectra.interventions.verdict import INTRUDER, UNCHANGED, readings, verdicts
from analysis.spectra.intruders.sources import Job, jobs, read_tuned
from analysis.spectra.processes import one_blas_thread
from analysis.spectra.weights import Pair
from harness.errors import ConfigError
from harness.export import find_run
from harness.forgetting.base import Items
from harness.storage.files import require_writable

Curves = dict[str, list[Scaling]]
READ_BY_NO_MODEL = ("run", "output_dir", "lambdas", "costs")
"""Settings that change no answer, or that answers are kept by."""


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
    if settings.mode == "mitigation":
        found |= _other_models(pair, examination, store)
    table = _tables(examination, store, curves, found, chosen, settings)
    summary(job.name, table, curves, len(chosen), examination, settings)
    _judge(examination, store, found, settings)
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
    known = {name: value for name, value in asdict(settings).items() if name not in READ_BY_NO_MODEL}
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
    with one_blas_thread():
        yield from track(work, job.name, total=len(pair.names), console=console, disable=quiet, transient=True)


def _curves(chosen: Sequence[Chosen], settings: Settings) -> Curves:
    """Return what each curve scales; raise where no matrix has an intruder, whose controls nothing else needs."""
    intruders = [one.intruders for one in chosen if one.intruders]
    if settings.mode == "mitigation":
        whole = {SHRUNK: [one.equal[SHRUNK] for one in chosen if one.equal]}
        return ({"intruders": intruders} if intruders else {}) | whole
    if not intruders:
        where = f"no intruder among the top {settings.k} of {len(chosen)} matrices at eps={settings.eps:g}"
        raise ConfigError("run", settings.run, f"{where}: there is nothing to scale; raise eps or k")
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


def _other_models(pair: Pair, examination: Examination, store: Store) -> dict[tuple[str, float], Items]:
    """Return the answers of the run's kept checkpoints, and those that runs at a lower rate gave."""
    found: dict[tuple[str, float], Items] = {}
    for share, state in stopped(examination.folder, examination.record["steps"]).items():
        kept = store.read(STOPPED, share)
        if kept is None:
            _loaded(replace(pair, tuned=read_tuned(state)), examination, state)
            kept = examination.ask()
            store.write(STOPPED, share, kept)
            print(f"{STOPPED} at {share:.3g} of the steps", file=sys.stderr)
        found[STOPPED, share] = kept
    for share, run in lower(examination.folder, examination.record).items():
        found[LOWER, share] = answers_of(run, examination.split)
    return found


def _loaded(pair: Pair, examination: Examination, state: Path | None = None) -> Weights:
    """Return the model's matrices, of a kept checkpoint where one is given, each W0 + ΔW as it was decomposed."""
    weights = examination.load(state)
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
    for curve in dict.fromkeys(curve for curve, _ in found if curve != UNCHANGED):
        for factor in sorted({factor for name, factor in found if name == curve} | {1.0}):
            items = one if factor == 1 else found[curve, factor]
            place = labels | said | {"curve": curve, "lambda": factor} | _taken_out(curves.get(curve), factor)
            table.extend(place | row for row in rows(examination, one, items))
    outcomes = [
        labels | {"curve": curve, "lambda": factor, "split": split} | asdict(outcome)
        for (curve, factor), items in found.items()
        for split, some in items.items()
        for outcome in some
    ]
    store.write_tables(table, [labels | row for row in _vector_rows(curves, chosen)], outcomes)
    return table


def _taken_out(scalings: list[Scaling] | None, factor: float) -> Row:
    """Return how much λ takes out of how many matrices; nothing of a curve of other models."""
    if scalings is None:
        return {"removed": None, "matrices": None}
    size = math.sqrt(sum(scaling.removed.squared_norm() for scaling in scalings))
    return {"removed": (1 - factor) * size, "matrices": len(scalings)}


def _judge(examination: Examination, store: Store, found: dict[tuple[str, float], Items], settings: Settings) -> None:
    """Print and keep what the curves show of each probe, of this setting."""
    probing = examination.probing
    probes = {label: fitted.probe for label, fitted in probing.fitted.items()}
    base = {label: measured.items for label, measured in probing.base.items()}
    if settings.mode == "mitigation":
        if (why := _no_mean(examination, found[UNCHANGED, 1.0])) is not None:
            print(why)
            return
        known = readings(probes, base, found)
        left = at_equal_score(known, probing.items(probing.base), found, examination.split, settings.costs)
        equal_scores(left)
        store.write_equal_scores([asdict(one) for one in left])
        return
    judged = verdicts(probes, base, found)
    for one in judged:
        print(one)
    store.write_verdicts([asdict(one) for one in judged])


def _no_mean(examination: Examination, tuned: Items) -> str | None:
    """Return why mitigations cannot be compared at equal score: the task's metric is not its items' mean score."""
    task, answers = examination.config.task, tuned[examination.split]
    recorded = task.scores(answers)[task.metric].value
    if math.isclose(recorded, sum(one.score for one in answers) / len(answers), rel_tol=1e-9):
        return None
    return f"mitigations at equal score: n/a: {task.metric} is no mean over items"


def _vector_rows(curves: Curves, chosen: Sequence[Chosen]) -> Iterator[Row]:
    labels = {one.matrix: {"matrix": one.matrix, "kind": one.kind, "layer": one.layer} for one in chosen}
    for curve, scalings in curves.items():
        for scaling in scalings:
            place = {"curve": curve} | labels[scaling.matrix]
            for index, sigma, cos in zip(scaling.indices, scaling.sigmas, scaling.cos, strict=True):
                yield place | {"index": index, "sigma": sigma, "cos": cos}
