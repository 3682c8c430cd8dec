"""Planning a sweep: check every run before the first trains, and train none twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from harness import progress
from harness.compose import to_run_config
from harness.config import Purpose, Retry, RunConfig, require
from harness.errors import RecordError
from harness.identity import digest, learning_rate, resolved, run_id
from harness.search import sweep as search
from harness.storage import sweeps
from harness.storage.privacy import expanded
from harness.storage.record import RunFolder, Status, checkpoints_not_kept, read_record, searched_in_vain

if TYPE_CHECKING:
    from harness.runtime import Runtime
    from harness.tasks.base import Item, Splits, Task

Job = Sequence[str]
FINAL = {"done", "not_applicable"}
DIVERGED = "diverged"
"""How a run of a search stands that diverged, which is a result."""


@dataclass(frozen=True)
class Planned:
    """One distinct run of a sweep."""

    job: Job
    """The overrides that Hydra composes it from."""
    config: RunConfig
    id: str
    status: str
    """``new``, a record's status, or ``damaged``."""

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return expanded(self.config.output_dir) / self.id

    @property
    def pending(self) -> bool:
        """Return whether there is something to do."""
        retry = self.config.retry
        if self.status == DIVERGED:
            return False
        left = FINAL if retry is Retry.failed else FINAL | {"failed"} if retry is Retry.none else set()
        return self.status not in left | {"damaged"}


def plan(jobs: Sequence[Job], compose: Callable[[Job], DictConfig]) -> list[Planned]:
    """Return the distinct runs of a sweep in order; every configuration is checked on the way."""
    runs: dict[tuple[str, str], Planned] = {}
    for job in jobs:
        config = to_run_config(compose(job))
        name = run_id(config)
        key = config.output_dir, name
        if key not in runs:
            runs[key] = Planned(job, config, name, status_of(RunFolder(config.output_dir, name)))
        other = runs[key].config.processes
        allowed = f"the same run is to have {other}, which is not in its id; add 'output_dir=runs/${{processes}}'"
        require(config.processes == other, "processes", config.processes, allowed)
    return list(runs.values())


def status_of(folder: RunFolder) -> str:
    """Return a run's status as the plan shows it."""
    try:
        record = folder.read()
    except RecordError:
        return "damaged"
    if record is None:
        return "new"
    return DIVERGED if searched_in_vain(record) else str(record["status"])


def describe(runs: Sequence[Planned], jobs: int) -> str:
    """Return the plan as text: a line a run, then what was left out as duplicates."""
    estimated = runs[0].config.estimate
    lines = [f"{'status':<15} {'learning rate':>13} {_ESTIMATED if estimated else ''} run"]
    for run in runs:
        expected = f"{_expected(run)} " if estimated else ""
        lines.append(f"{_meaning(run):<15} {learning_rate(run.config):>13g} {expected} {run.folder}")
    pending = sum(run.pending for run in runs)
    repeated = f", {jobs - len(runs)} duplicates left out" if jobs > len(runs) else ""
    return "\n".join([*lines, f"{len(runs)} runs{repeated}: {pending} to train, {len(runs) - pending} not"])


_ESTIMATED = f"{'peak GiB':>9}  {'training':<34} "


def _expected(run: Planned) -> str:
    """Return what a run that is to train will hold and take; nothing for another."""
    if not run.pending:
        return f"{'':>9}  {'':<34}"
    from harness.planning.estimate import described

    peak, seconds = described(run.config)
    return f"{peak:>9}  {seconds:<34}"


def _meaning(run: Planned) -> str:
    if run.pending and run.config.retry is Retry.all:
        return "to train"
    meanings = {"new": "to train", "running": "cut: resume", "failed": "failed: retry"}
    return meanings.get(run.status, run.status) if run.pending else run.status


def prepare(runs: Sequence[Planned]) -> None:
    """Fetch and check models, data, method options, tracker and disk: all that can go wrong before training."""
    from harness import runtime, tracking
    from harness.distributed.limits import check_processes
    from harness.execution import session
    from harness.storage.files import require_writable
    from harness.training.arguments import check_arguments

    seen: set[str] = set()
    for run in runs:
        config = run.config
        tracking.check(config.tracker)
        require_writable(expanded(config.output_dir), 64 * 2**20)
        config.method.preflight()
        here = runtime.resolve(config)
        resolved = replace(config, method=config.method.on(here))
        check_arguments(resolved, here)
        check_processes(resolved, here)
        key = digest([config.model, config.task, config.sequence_tasks, config.cache_dir])
        if key not in seen:
            for task in config.sequence_tasks.values() or [config.task]:
                _, splits = session.fetch(replace(config, task=task))
                check_metrics(task, splits)
            seen.add(key)
        check_forgetting(config, here, seen)


def check_metrics(task: Task, splits: Splits) -> None:
    """Compute each metric of ``task.metrics`` of a few right answers, so that one that cannot be is known before."""
    from harness.tasks import external
    from harness.tasks.base import Outcome

    right = [Outcome(item.id, text, text, 1.0) for item in splits.test[:4] for text in [_right_answer(item)]]
    for spec in task.metrics:
        external.measure(external.parsed(spec), right)


def _right_answer(item: Item) -> str:
    return item.choices[item.target] if item.choices else str(item.target)


def check_forgetting(config: RunConfig, here: Runtime, seen: set[str]) -> None:
    """Refuse probes that do not fit or cannot read what they need; a model and task with the same ones once."""
    from harness.errors import NotApplicable
    from harness.execution.session import prepare
    from harness.forgetting.measure import fit

    key = digest([config.model, config.task, config.forgetting, config.cache_dir, "probes"])
    if key in seen or not config.forgetting.probes:
        return
    seen.add(key)
    with suppress(NotApplicable):  # a task that this kind of model cannot do: its run says so
        fit(config, prepare(config), here)


def tidy_done_runs(runs: Sequence[Planned]) -> None:
    """Clear away what a process left that was killed between a run's record and its end."""
    for run in runs:
        if not run.pending and run.status == "done" and (run.folder / "phases").exists():
            folder = RunFolder(run.config.output_dir, run.id)
            with folder.lock(wait=False) as mine:
                if mine:
                    kept = bool(read_record(run.folder)["config"]["train"]["keep_checkpoints"])
                    folder.tidy(kept, run.config.purpose is Purpose.result)


def report_missing_checkpoints(runs: Sequence[Planned]) -> None:
    """Say of each finished run that is asked for checkpoints and has none what to do."""
    for run in runs:
        if not run.pending and run.status == "done":
            remark = checkpoints_not_kept(read_record(run.folder), run.config.train.keep_checkpoints)
            if remark:
                progress.say(remark)


def run_sweep(
    jobs: Sequence[Job],
    compose: Callable[[Job], DictConfig],
    launch: Callable[[list[list[str]]], Sequence[Any]],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Plan, prepare, launch and report a sweep; exit with code 1 where a run failed.

    `check` raises where the launcher cannot launch; it is asked before anything is fetched.
    """
    runs = plan(jobs, compose)
    if not runs[0].config.dry_run and any(run.pending for run in runs):
        check()
    name = f"sweep-{digest(sorted(run.id for run in runs), 8)}"
    if runs[0].config.search.active:
        run_search(runs, compose, lambda some: _launch(some, launch, name))
        return
    report_missing_checkpoints(runs)
    if runs[0].config.dry_run:
        print(describe(runs, len(jobs)))
        return
    _train(runs, lambda some: _launch(some, launch, name))
    report(runs)


def run_search(
    runs: Sequence[Planned], compose: Callable[[Job], DictConfig], launch: Callable[[Sequence[Planned]], None]
) -> None:
    """Search each configuration's learning rate, then train the runs that are asked for at it."""
    searched = search.configurations([run.job for run in runs], [run.config for run in runs])
    if runs[0].config.dry_run:
        print(search.describe(searched, lambda job: plan([job], compose)[0].pending))
        return
    search.search_rates(searched, lambda jobs: _train(plan(jobs, compose), launch), progress.say)
    jobs, lines = search.reported_jobs(searched)
    found = plan(jobs, compose) if jobs else []
    report_missing_checkpoints(found)
    _train(found, launch)
    search.note_searches([run.config for run in found])
    for line in lines:
        progress.say(f"not trained: {line}")
    report(found, failed=bool(lines))


def _train(runs: Sequence[Planned], launch: Callable[[Sequence[Planned]], None]) -> None:
    """Prepare and launch what is to train, if anything is."""
    pending = [run for run in runs if run.pending]
    if pending:
        prepare(pending)
        launch(runs)
    tidy_done_runs(runs)


def _launch(runs: Sequence[Planned], launch: Callable[[list[list[str]]], Sequence[Any]], name: str) -> None:
    """Launch what is to train; come back at the end to runs that another process held."""
    _note(runs, name)
    batch = [[*run.job, *_place(run, name, number, len(runs))] for number, run in enumerate(runs, 1) if run.pending]
    results = launch(batch)
    # What another process trained meanwhile is not trained once more, also where all were asked for.
    held = [
        [*job, "sweep.wait=true", "retry=failed"] for job, result in zip(batch, results, strict=True) if _held(result)
    ]
    for result in [*results, *(launch(held) if held else [])]:
        result.return_value  # noqa: B018  # raises what a job raised


def _note(runs: Sequence[Planned], name: str) -> None:
    """Note what the sweep has set out to do, for those who ask how it stands before each run has a record."""
    by_folder: dict[str, dict[str, Any]] = {}
    for run in runs:
        kind = sweeps.kind(resolved(run.config), run.config.method.rank_used)
        by_folder.setdefault(run.config.output_dir, {})[run.id] = kind
    for folder, kinds in by_folder.items():
        sweeps.note(folder, runs[0].config.sweep.name or name, kinds)


def _held(result: Any) -> bool:
    """Return whether another process was training the run; a job that raised has its error in this place."""
    return result._return_value is None


def _place(run: Planned, name: str, index: int, total: int) -> list[str]:
    named = [] if run.config.sweep.name else [f"sweep.name={name}"]
    return [
        *named,
        f"sweep.begun={time.time():.3f}",
        f"sweep.index={index}",
        f"sweep.total={total}",
        "sweep.prepared=true",
    ]


def report(runs: Sequence[Planned], failed: bool = False) -> None:
    """Print the table of all runs; exit with code 1 where one is not, or `failed`."""
    from harness.table import print_results

    if runs:
        print_results([run.folder for run in runs])
    unfinished = [run for run in runs if status_of(RunFolder(run.config.output_dir, run.id)) not in FINAL]
    if unfinished or failed:
        raise SystemExit(1)


def run_single(config: RunConfig, execute: Callable[[RunConfig], Status | None]) -> None:
    """Plan, prepare, train and report one run outside a sweep."""
    run = to_do(config)
    if run is not None:
        execute(run)
    report_single(config)


def _single(config: RunConfig) -> Planned:
    name = run_id(config)
    return Planned([], config, name, status_of(RunFolder(config.output_dir, name)))


def to_do(config: RunConfig) -> RunConfig | None:
    """Plan and prepare one run outside a sweep; return what to execute, None where nothing is to be done."""
    run = _single(config)
    report_missing_checkpoints([run])
    if config.dry_run:
        print(describe([run], 1))
        return None
    if run.status == "damaged":
        RunFolder(config.output_dir, run.id).read()  # raises, and says how
    if not run.pending:
        return None
    prepare([run])
    return replace(config, sweep=replace(config.sweep, wait=True, begun=time.time()))


def report_single(config: RunConfig) -> None:
    """Print the table of one run outside a sweep; exit with code 1 where it is not done."""
    if not config.dry_run:
        run = _single(config)
        tidy_done_runs([run])
        report([run])
