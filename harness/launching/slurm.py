"""A sweep as a job array of SLURM, by submitit: one job a run, which queues itself again when its time is over."""

from __future__ import annotations

import logging.config
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import progress
from harness.config import RunConfig
from harness.errors import ConfigError
from harness.launching import lost, queued
from harness.launching.cluster import LAUNCHER, NoAnswerError, alive
from harness.launching.tasks import in_task
from harness.storage.privacy import expanded

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM) if os.name == "posix" else ()
"""SIGUSR1 is what many clusters send before they take a node, SIGUSR2 submitit's own before the time limit; SIGTERM
comes at preemption, at the limit and by ``scancel``."""
POLL_SECONDS = 2.0
SILENT_SECONDS = 20.0
"""How long a job may be out of the queue without a result, which a file server shows late, before it is lost."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
OWN = ("submitit_folder", "wait", "max_num_timeout")
"""Settings that are not the job's."""
ALL_CLUSTERS = {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name"}
"""What submitit calls the same on every kind of cluster; the others have ``slurm_`` before them."""


@dataclass
class Work:
    """What a job does; submitit pickles it by its name and calls it with the run's configuration."""

    logging: dict[str, Any]

    def __call__(self, config: RunConfig) -> str | None:
        """Execute the run and return its status; None where another process holds it, or another task has it."""
        import submitit

        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes while torch loads waits for its handler
        task = submitit.JobEnvironment()
        _set_threads(config.processes, task.num_tasks)
        logging.config.dictConfig(self.logging)
        from harness.execution.execute import execute  # torch loads here, with as many threads as the job has cores
        from harness.training.stop import Preempted

        if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":  # the attempt before may seem alive for a while
            config.sweep.wait = True
        requeue = _submitit_handler()
        try:
            status = in_task(config, execute, SIGNALS)
        except Preempted as told:
            if task.global_rank > 0:
                return None  # the first task queues the job again
            if told.signal != signal.SIGTERM or _still_wanted():
                requeue(told.signal, None)
            raise
        return None if status is None else status.value

    def checkpoint(self, config: RunConfig) -> Any:
        """Return what submitit queues again: the same, for the run's folder has all that it goes on from."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, config)


def _set_threads(processes: int, tasks: int) -> None:
    """Give each process its share of a task's cores; a number of threads that the user set stays."""
    if "SLURM_CPUS_PER_TASK" in os.environ:
        threads = max(1, int(os.environ["SLURM_CPUS_PER_TASK"]) * tasks // processes)
        for name in THREADS:
            os.environ.setdefault(name, str(threads))


def _submitit_handler() -> Callable[[int, Any], Any]:
    """Return submitit's handler of its own signal: it queues the job again and exits, or says that it may not."""
    from submitit.slurm.slurm import SlurmJobEnvironment

    handler = signal.getsignal(SlurmJobEnvironment._usr_sig())
    assert callable(handler)
    return handler


def _still_wanted() -> bool:
    """Return whether SLURM takes this job for running: one that was cancelled, or is over, must not come back."""
    job = os.environ["SLURM_JOB_ID"]
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    name = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
    try:
        return alive([name]).get(name) == "RUNNING"
    except NoAnswerError:
        return False


def launch(configs: Sequence[RunConfig], settings: Mapping[str, Any], logs: dict[str, Any]) -> list[str | None]:
    """Submit a job for each run, and return each one's status once all have ended; None where another held it.

    A run that is in the queue already is not submitted again. With ``wait=false`` the command ends here, with code 0.
    """
    jobs = submit(configs, settings, logs)
    arrays = " ".join(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs))
    where = configs[0].output_dir
    progress.say(f"{len(jobs)} jobs in SLURM's queue, {arrays}: python -m harness.status {where} says how they stand")
    if not settings["wait"]:
        raise SystemExit(0)
    try:
        return [_status(*pair) for pair in zip(wait(jobs), configs, strict=True)]
    except KeyboardInterrupt:
        progress.say(f"the jobs go on without this command; scancel {arrays} ends them")
        raise


def submit(configs: Sequence[RunConfig], settings: Mapping[str, Any], logs: dict[str, Any]) -> list[Any]:
    """Submit what is not in the queue yet as one array, and return submitit's jobs of all runs."""
    with queued.submitting(configs):
        try:
            jobs = queued.jobs(configs)
        except NoAnswerError as error:
            raise ConfigError(*LAUNCHER, f"SLURM does not answer ({error}); try squeue") from None
        if jobs:
            names = ", ".join(job.job_id for job in jobs.values())
            progress.say(f"not submitted again, {len(jobs)} of {len(configs)} runs are in SLURM's queue: {names}")
        new = [number for number in range(len(configs)) if number not in jobs]
        if new:
            folder = expanded(settings["submitit_folder"])
            made = _array([configs[number] for number in new], settings, Work(logs))
            for number, job in zip(new, made, strict=True):
                queued.note(configs[number], job.job_id, folder)
                jobs[number] = job.task(0)  # the first of a run's processes, whose result is the run's
    return [jobs[number] for number in range(len(configs))]


def _array(configs: Sequence[RunConfig], settings: Mapping[str, Any], work: Work) -> list[Any]:
    """Submit runs as one array and return submitit's jobs."""
    import submitit

    folder, timeouts = expanded(settings["submitit_folder"]), settings["max_num_timeout"]
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=timeouts)
    given = {name: value for name, value in settings.items() if name not in OWN and value not in (None, [])}
    # Tasks end seconds apart, while the first one writes; where a cluster's WaitTime is shorter, SLURM would kill it.
    given |= {"srun_args": ["--wait=0"]}
    executor.update_parameters(
        **{name if name in ALL_CLUSTERS else f"slurm_{name}": value for name, value in given.items()}
    )
    return list(executor.map_array(work, configs))


@dataclass
class Ended:
    """How a job ended."""

    job: str
    status: str | None = None
    """The run's, None where another process held it or the job left none."""
    problem: str | None = None
    """Why it left none."""


def wait(jobs: Sequence[Any]) -> list[Ended]:
    """Return how each job ended, once all have.

    submitit itself asks ``sacct``, which knows nothing where a cluster keeps no accounts: it would wait for ever for a
    job that was killed.
    """
    ended: dict[str, Ended] = {}
    gone: dict[str, float] = {}
    silent = False
    while len(ended) < len(jobs):
        left = [job for job in jobs if job.job_id not in ended]
        for job in left:
            if job.paths.result_pickle.exists():
                ended[job.job_id] = _result(job)
        try:
            queued, silent = alive([job.job_id for job in left]), False
        except NoAnswerError as error:
            if not silent:
                progress.say(f"SLURM does not answer ({error}); its jobs go on, and so does this command once it does")
            silent, queued = True, None
        if queued is not None:
            _note_gone(left, queued, gone, ended)
        time.sleep(POLL_SECONDS)
    return [ended[job.job_id] for job in jobs]


def _note_gone(left: Sequence[Any], queued: Mapping[str, str], gone: dict[str, float], ended: dict[str, Ended]) -> None:
    """Note which jobs have been out of the queue for so long without a result that they are lost."""
    for job in left:
        name = job.job_id
        if name in queued:
            gone.pop(name, None)
        elif name not in ended and time.monotonic() - gone.setdefault(name, time.monotonic()) > SILENT_SECONDS:
            reason = f"SLURM's job {name} ended without a result: killed, cancelled or its node failed"
            ended[name] = Ended(name, problem=f"{reason}; log: {job.paths.stderr}")


def _result(job: Any) -> Ended:
    outcome, value = job._get_outcome_and_result()
    if outcome == "success":
        return Ended(job.job_id, value)
    last = str(value).strip().splitlines()[-1]
    return Ended(job.job_id, problem=f"SLURM's job {job.job_id} ended: {last}; log: {job.paths.stderr}")


def _status(ended: Ended, config: RunConfig) -> str | None:
    return ended.status if ended.problem is None else lost.fail(config, ended.problem).value
