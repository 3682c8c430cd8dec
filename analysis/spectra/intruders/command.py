"""One tuned model from files to tables and a printed summary."""

from __future__ import annotations

import sys

from analysis.intruders import Settings
from analysis.spectra.intruders.analyse import Rows, device_of, measure_all
from analysis.spectra.intruders.sources import Job
from analysis.spectra.intruders.summary import summary
from analysis.spectra.intruders.tables import write
from analysis.spectra.weights import Pair
from harness.errors import ConfigError
from harness.storage.files import require_writable


def measure_job(job: Job, settings: Settings) -> Rows:
    """Measure a model's matrices, of every step, write the tables and print the counts."""
    device_of(settings)
    for _, pair in job.steps:
        _require_large_enough(pair, settings.k)  # what does not fit is said before anything is computed
    require_writable(job.out, 2**20)
    rows = Rows()
    for step, pair in job.steps:
        found = _measured(pair, settings, job.name if step is None else f"{job.name} at step {step}")
        for row in (row for _, some in found.each() for row in some):
            row.update(run=job.name, step=step)
        rows.extend(found)
    entries = write(rows, job.out, settings)
    summary(job.name, rows, entries, settings, job.steps[-1][1].unchanged)
    print(f"tables: {job.out}")
    return rows


def _require_large_enough(pair: Pair, k: int) -> None:
    for name in pair.names:
        if k > min(pair.base.shapes[name]):
            size = " x ".join(map(str, pair.base.shapes[name]))
            raise ConfigError("k", k, f"is larger than {name}, which is {size}")


def _measured(pair: Pair, settings: Settings, name: str) -> Rows:
    from rich.console import Console
    from rich.progress import track

    rows = Rows()
    console = Console(stderr=True)
    work = measure_all(pair, settings, name)
    bar = track(work, name, total=len(pair.names), console=console, disable=not sys.stderr.isatty(), transient=True)
    for found in bar:
        rows.extend(found)
    return rows
