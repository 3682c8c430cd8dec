"""What becomes of a run whose process ended without a word: killed, out of memory, its node gone."""

from __future__ import annotations

from harness import identity, progress
from harness.config import RunConfig
from harness.errors import RecordError
from harness.storage.record import RunFolder, Status


def fail(config: RunConfig, reason: str) -> Status:
    """Write into the run's record why its process ended; the same command goes on at its last checkpoint.

    Waits where a process seems to hold it, as one that died on another host does for two minutes; a run that has ended
    after all is left as it is.
    """
    folder = RunFolder(config.output_dir, identity.run_id(config))
    with folder.lock(wait=True):
        try:
            status = folder.status()
        except RecordError as error:
            progress.say(f"{folder.id}: failed: {error}")
            return Status.failed
        if status is Status.running:
            folder.fail(reason)
            status = Status.failed
    if status in (None, Status.failed):
        progress.say(f"{folder.id}: failed: {reason}")
    return status or Status.failed
