"""What SLURM says by its own commands: whether it would take a job, and which of its jobs are alive."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from harness.config import require
from harness.errors import ConfigError, first_line, nearest

LAUNCHER = ("hydra/launcher", "submitit_slurm")
ANSWER_SECONDS = 60
"""How long a command may take: SLURM's own patience with a controller that does not answer is 10 to 30 seconds."""
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"}
ENDED |= {"NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
"""States that SLURM gives a job once and for all; a preempted one that is queued again is PENDING."""
OPTIONS = {
    "partition": "partition",
    "gpus_per_node": "gpus-per-node",
    "timeout_min": "time",
    "cpus_per_task": "cpus-per-task",
    "mem_gb": "mem",
    "nodes": "nodes",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "exclude": "exclude",
    "gres": "gres",
}
"""Settings of the launcher and the options of sbatch that they become."""


class NoAnswerError(Exception):
    """SLURM's controller does not answer."""


def ask(*command: str) -> str:
    """Return what a command of SLURM printed; raise :class:`NoAnswerError` with its first line where it failed."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"{command[0]} did not answer in {ANSWER_SECONDS} s") from None
    if found.returncode:
        lines = [line for line in found.stderr.splitlines() if line.strip()] or [f"exit code {found.returncode}"]
        raise NoAnswerError("; ".join(line.removeprefix(f"{command[0]}: ").strip() for line in lines[-2:]))
    return found.stdout


def check(settings: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` where SLURM is not there, does not answer, or would not take such a job."""
    require(find_spec("submitit") is not None, *LAUNCHER, "needs submitit: pip install 'peft-harness[cluster]'")
    missing = next((name for name in ("sbatch", "srun", "squeue", "sinfo") if shutil.which(name) is None), None)
    require(missing is None, *LAUNCHER, f"there is no SLURM here: no command {missing}")
    _check_partition(settings["partition"], int(settings["timeout_min"]))
    _try(settings)


def _check_partition(asked: str | None, minutes: int) -> None:
    """Raise :class:`ConfigError` unless each partition that is asked for, or the default one, takes such a job.

    A job beyond a partition's time limit is taken by many clusters, and never begun.
    """
    try:
        lines = ask("sinfo", "--noheader", "--format=%P %l").splitlines()
    except NoAnswerError as error:
        raise ConfigError(*LAUNCHER, f"SLURM does not answer ({error}); try sinfo") from None
    limits = dict(line.split(maxsplit=1) for line in lines if line.strip())
    default = next((name.rstrip("*") for name in limits if name.endswith("*")), None)
    known = {name.rstrip("*"): limit.strip() for name, limit in limits.items()}
    names = str(asked).split(",") if asked is not None else [default] if default else []
    require(bool(names), "hydra.launcher.partition", None, f"there is no default; {nearest('', known)}")
    for name in names:
        require(name in known, "hydra.launcher.partition", asked, f"no such partition; {nearest(name, known)}")
        limit = known[name]
        allowed = f"partition {name} ends jobs after {limit}; a run that takes longer goes on in another job"
        require(minutes <= minutes_of(limit), "hydra.launcher.timeout_min", minutes, allowed)


def minutes_of(limit: str) -> float:
    """Return a time as SLURM prints it, ``2-12:30:00``, ``1:00:00`` or ``infinite``, in minutes."""
    if not limit[:1].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours, minutes, seconds = [0] * (3 - len(parts)) + parts
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def _try(settings: Mapping[str, Any]) -> None:
    """Ask SLURM whether it would ever run such a job, without submitting one."""
    given = {option: settings[name] for name, option in OPTIONS.items() if settings[name] is not None}
    if "mem" in given:
        given["mem"] = f"{round(1024 * given['mem'])}M"
    options = [f"--{option}={value}" for option, value in given.items()]
    try:
        ask("sbatch", "--test-only", *options, f"--ntasks-per-node={settings['tasks_per_node']}", "--wrap=true")
    except NoAnswerError as error:
        said = ", ".join(option.removeprefix("--") for option in options)
        raise ConfigError(*LAUNCHER, f"SLURM refuses such a job ({said}): {first_line(error)}") from None


def alive(jobs: Sequence[str]) -> dict[str, str]:
    """Return the state of each of these jobs that waits or runs, by its id such as ``12_3``.

    Raises :class:`NoAnswerError` where the controller does not answer, which says nothing of the jobs.
    """
    arrays = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    command = ("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={arrays}")
    try:
        lines = ask(*command).splitlines()
    except NoAnswerError as error:
        if "Invalid job id" in str(error):  # forgotten some minutes after their end
            return {}
        raise
    states = dict(line.split(maxsplit=1) for line in lines if line.strip())
    return {job: states[job] for job in jobs if states.get(job, "COMPLETED") not in ENDED}
