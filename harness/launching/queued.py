"""Which runs are in SLURM's queue: ``<output_dir>/.sweeps/slurm/<run>.json`` names the job that was submitted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from harness import identity
from harness.config import RunConfig
from harness.launching.cluster import alive
from harness.storage import sweeps
from harness.storage.files import write_json
from harness.storage.locks import exclusive
from harness.storage.privacy import expanded, masked


def _folder(output_dir: str) -> Path:
    return expanded(output_dir) / sweeps.FOLDER / "slurm"


def _path(config: RunConfig) -> Path:
    return _folder(config.output_dir) / f"{identity.run_id(config)}.json"


@contextmanager
def submitting(configs: Sequence[RunConfig]) -> Iterator[None]:
    """Have one command at a time look into the queue and submit."""
    with ExitStack() as stack:
        for folder in sorted({_folder(config.output_dir) for config in configs}):
            stack.enter_context(exclusive(folder / ".lock", "another command that submits runs"))
        yield


def note(config: RunConfig, job: str, folder: Path) -> None:
    """Note the job that a run was submitted as, and submitit's folder, where its result will be."""
    write_json(_path(config), masked({"job": job, "folder": str(folder)}))


def jobs(configs: Sequence[RunConfig]) -> dict[int, Any]:
    """Return submitit's jobs of the runs that wait or run in SLURM's queue, by their place in `configs`.

    Raises :class:`NoAnswerError` where SLURM does not answer.
    """
    found = {number: job for number, config in enumerate(configs) if (job := _noted(config)) is not None}
    unfinished = {number: job for number, job in found.items() if not job.paths.result_pickle.exists()}
    queued = alive([job.job_id for job in unfinished.values()]) if unfinished else {}
    return {number: job for number, job in unfinished.items() if job.job_id in queued}


def _noted(config: RunConfig) -> Any:
    import submitit

    try:
        found = json.loads(_path(config).read_text(encoding="utf-8"))
        return submitit.SlurmJob(folder=expanded(found["folder"]), job_id=found["job"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
