"""How sweeps stand: ``python -m harness.status runs/`` says what runs, waits, is done or failed, and the time left."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.errors import ConfigError, HarnessError, RecordError, first_line, nearest
from harness.storage import sweeps
from harness.storage.locks import holder_of
from harness.storage.privacy import expanded
from harness.storage.record import Status, read_record, searched_in_vain

USAGE = """\
Say how the runs of a folder stand, while they run here, on other machines or in a queue.

  python -m harness.status runs/                a line for each sweep, and a table of what is not done
  python -m harness.status runs/ watch=10       again every 10 seconds, until nothing runs or waits
  python -m harness.status runs/ all=true       the done runs too
  python -m harness.status runs/ results=true   the result table of what is done, as at the end of a sweep

running         a process holds the run's lock and is alive
cut             begun, and no process holds it: the same command goes on with it, or its queue does
waiting         not begun
failed          the same command tries it again
not applicable  the method does not fit the model, which is a result
time left       by the median of done runs alike in model, task, method, rank and steps, or in fewer of these"""
RUNNING, CUT, WAITING, DONE = "running", "cut", "waiting", "done"
ORDER = (RUNNING, CUT, WAITING, "failed", "not applicable", "damaged", DONE)
SINGLE = "outside of sweeps"
ALIKE = (("model", "task", "method", "rank", "steps", "purpose"), ("model", "task", "method"), ("model", "task"), ())
"""In what runs are alike, the closest first: the time left is by the first that a done run shares."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    runs: tuple[str, ...]
    watch: float = 0.0
    """Seconds between two looks; 0 for one look."""
    all: bool = False
    results: bool = False


@dataclass
class Run:
    """One run as it stands."""

    id: str
    folder: Path
    state: str
    kind: Mapping[str, Any] = field(default_factory=dict)
    sweep: str = SINGLE
    seconds: float | None = None
    """What a done run took."""
    elapsed: float = 0.0
    """Seconds since a running one began or went on."""
    detail: str = ""


@dataclass(frozen=True)
class Sweep:
    """What one command set out to do."""

    name: str
    runs: Sequence[Run]


def read(folders: Sequence[Path]) -> list[Sweep]:
    """Return the sweeps of these folders with their runs; a run is in each sweep that named it."""
    found = []
    for folder in folders:
        runs = {run.folder: run for run in map(_read_run, _run_folders(folder))}
        parents = dict.fromkeys([folder, *(path.parent for path in runs)])
        named = [_noted(parent, note, runs) for parent in parents for note in sweeps.noted(parent)]
        known = {run.folder for sweep in named for run in sweep.runs}
        others: dict[str, list[Run]] = {}
        for run in runs.values():
            if run.folder not in known:
                others.setdefault(run.sweep, []).append(run)
        found += [*named, *(Sweep(name, members) for name, members in others.items())]
    return found


def _run_folders(folder: Path) -> Iterator[Path]:
    """Yield the folders with a record in this one, at any depth; what is shared or hidden is no run."""
    for path in sorted(folder.rglob("record.json")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path.parent


def _noted(parent: Path, note: dict[str, Any], runs: Mapping[Path, Run]) -> Sweep:
    members = (
        runs.get(parent / name) or Run(name, parent / name, WAITING, kind, note["name"])
        for name, kind in note["runs"].items()
    )
    return Sweep(note["name"], list(members))


def _read_run(folder: Path) -> Run:
    try:
        record = read_record(folder)
    except RecordError as error:
        return Run(folder.name, folder, "damaged", detail=first_line(error))
    sweep = record["config"].get("sweep", {}).get("name") or SINGLE
    run = Run(record["id"], folder, DONE, sweeps.kind(record["config"], record.get("rank")), sweep)
    status = Status(record["status"])
    if status is Status.running:
        _fill_running(run, record)
    elif status is Status.done:
        run.seconds = sum(record.get("seconds", {}).values())
    elif searched_in_vain(record):
        run.detail = "diverged, which its search wanted to know"
    else:
        run.state, run.detail = status.value.replace("_", " "), str(record.get("reason"))
    return run


def _fill_running(run: Run, record: dict[str, Any]) -> None:
    """Say of a run that is not at its end who works on it and how far it is."""
    holder, step = holder_of(run.folder / ".lock"), _step(run.folder)
    run.state = RUNNING if holder else CUT
    attempts = record.get("attempts") or [{}]
    began = attempts[-1].get("started") or record.get("started")
    if holder and began:
        run.elapsed = max(0.0, time.time() - datetime.fromisoformat(began).timestamp())
    run.detail = ", ".join(part for part in (f"step {step}" if step else "", str(holder or "")) if part)


def _step(folder: Path) -> int:
    """Return the newest step of a run's history, of its last stage where it has several; 0 before the first."""
    paths = [folder / "history.jsonl", *folder.glob("stages/*/history.jsonl")]
    newest = max((path for path in paths if path.exists()), key=lambda path: path.stat().st_mtime, default=None)
    lines = newest.read_text(encoding="utf-8").splitlines() if newest else []
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # the line that is being written
            continue
    return 0


class Expected:
    """How long runs take, by those that are done."""

    def __init__(self, runs: Sequence[Run]) -> None:
        took: dict[tuple[int, str], list[float]] = {}
        for run in runs:
            if run.seconds:
                for level, names in enumerate(ALIKE):
                    took.setdefault((level, sweeps.like(run.kind, names)), []).append(run.seconds)
        self._median = {key: median(values) for key, values in took.items()}

    def left(self, run: Run) -> float | None:
        """Return the seconds that a run will still take, None where no run is done; a cut one counts whole."""
        for level, names in enumerate(ALIKE):
            whole = self._median.get((level, sweeps.like(run.kind, names)))
            if whole is not None:
                return max(0.0, whole - run.elapsed)
        return None


def time_left(runs: Sequence[Run], expected: Expected) -> float | None:
    """Return the seconds until all of these runs are done, as many side by side as run now; None where not known."""
    unfinished = [run for run in runs if run.state in (RUNNING, CUT, WAITING)]
    left = [expected.left(run) for run in unfinished]
    known = [seconds for seconds in left if seconds is not None]
    if not known or len(known) < len(left):
        return None
    return max(*known, sum(known) / max(1, sum(run.state == RUNNING for run in unfinished)))


def line(sweep: Sweep, expected: Expected) -> str:
    """Return how a sweep stands in a line."""
    counts = Counter(run.state for run in sweep.runs)
    said = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    if not any(counts[state] for state in (RUNNING, CUT, WAITING)):
        return f"{sweep.name}: {len(sweep.runs)} {'run' if len(sweep.runs) == 1 else 'runs'}: {said}"
    left = time_left(sweep.runs, expected)
    when = "time left not known before a run is done" if left is None else f"about {duration(left)} left"
    workers = "" if counts[RUNNING] else ", none is running"
    return f"{sweep.name}: {len(sweep.runs)} {'run' if len(sweep.runs) == 1 else 'runs'}: {said}; {when}{workers}"


def duration(seconds: float) -> str:
    """Return seconds as ``40 s``, ``12 min`` or ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def table(runs: Sequence[Run], expected: Expected) -> Table:
    """Return a row for each run: how it stands, the time left, and who works on it or why it failed."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("state", "run", "left", "detail"):
        made.add_column(name, justify="right" if name == "left" else "left", no_wrap=True)
    for run in sorted(runs, key=lambda one: ORDER.index(one.state)):
        left = expected.left(run) if run.state in (RUNNING, CUT, WAITING) else None
        made.add_row(run.state, run.id, "" if left is None else duration(left), run.detail)
    return made


def show(asked: Asked, console: Console) -> bool:
    """Print how the folders stand; return whether something runs or waits."""
    found = read([expanded(folder) for folder in asked.runs])
    runs = list({run.folder: run for sweep in found for run in sweep.runs}.values())
    expected = Expected(runs)
    for sweep in found:
        console.print(line(sweep, expected))
    shown = [run for run in runs if asked.all or run.state != DONE]
    if shown:
        console.print(table(shown, expected))
    if not found:
        console.print("no runs yet")
    if asked.results:
        _results([run.folder for run in runs if run.state == DONE])
    return any(run.state in (RUNNING, WAITING) for run in runs)


def _results(folders: list[Path]) -> None:
    from harness.table import print_results

    if folders:
        print_results(folders)


def parse(arguments: Sequence[str]) -> Asked:
    """Return what is asked for.

    Raises :class:`ConfigError` for a folder that is not there, an unknown key or a wrong value.
    """
    given: dict[str, Any] = {}
    folders = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or expanded(argument).is_dir():
            folders.append(argument)
        elif key in READERS:
            given[key] = READERS[key](key, value)
        else:
            raise ConfigError(key, value, f"no such option; {nearest(key, READERS)}")
    if not folders:
        raise ConfigError("runs", "", "give a folder of runs; --help shows all options")
    for folder in folders:
        if not expanded(folder).is_dir():
            raise ConfigError("runs", folder, "there is no such folder")
    return Asked(tuple(folders), **given)


def _seconds(key: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(key, value, "must be seconds above 0")
    return seconds


def _flag(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ConfigError(key, value, "must be true or false")
    return value == "true"


READERS = {"watch": _seconds, "all": _flag, "results": _flag}


def main(arguments: Sequence[str]) -> None:
    """Print how the runs stand, once or until nothing runs or waits."""
    asked = parse(arguments)
    # Never folded into cells: a line that a narrow terminal wraps can still be read, searched and copied.
    console = Console(width=10_000, highlight=False, markup=False)
    while show(asked, console) and asked.watch:
        time.sleep(asked.watch)
        console.print(f"\n{datetime.now():%H:%M:%S}")


def cli() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    arguments = sys.argv[1:]
    if not arguments or {"--help", "-h"} & set(arguments):
        print(USAGE)
        sys.exit(0 if arguments else 1)
    try:
        main(arguments)
    except (HarnessError, OSError) as error:
        print(f"harness.status: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    cli()
