"""One run, from configuration to record: what the same command does with what is there already."""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from harness import identity, progress, runtime, tracking
from harness.config import Distributed, Purpose, Resume, Retry, RunConfig
from harness.distributed import group
from harness.distributed.watch import FAILED, broken_connection, current
from harness.errors import DivergedError, HarnessError, NotApplicable, TrainingError, first_line
from harness.execution.attempts import described, mixed, require_same_environment, resume_point
from harness.execution.context import Run
from harness.execution.phases import TRAIN
from harness.execution.pipeline import work
from harness.search.sweep import path_of
from harness.storage.files import disk_full
from harness.storage.record import SCHEMA_VERSION, Follower, RunFolder, Status, checkpoints_not_kept, searched_in_vain
from harness.table import summary
from harness.training import stop

FINAL = (Status.done, Status.not_applicable)


def execute(config: RunConfig) -> Status | None:
    """Train, evaluate and record one run; skip what is done, go on with what was cut, retry what failed.

    Returns None where another process is training it and ``sweep.wait`` is off. A run that fails leaves
    a failed record and does not raise; an interruption leaves it resumable and does. Where no record can
    be trusted or written, that is said, and what is there is left as it is.
    """
    if config.processes > group.size():
        from harness.distributed.launch import in_processes

        return in_processes(config, execute)
    runtime.freeze_imports()
    folder = (RunFolder if group.first() else Follower)(config.output_dir, identity.run_id(config))
    try:
        with group.held_by_first(folder.lock(config.sweep.wait)) as mine:
            return _next_attempt(config, folder) if mine else None
    except (HarnessError, OSError) as error:
        progress.say(f"{folder.id}: failed: {_one_line(error)}")
        return Status.failed
    finally:
        runtime.release()


def _next_attempt(config: RunConfig, folder: RunFolder) -> Status:
    record = group.by_first(folder.read) or {}
    status = Status(record["status"]) if record else None
    again = config.retry is Retry.all and not record.get("begun", 0) >= config.sweep.begun > 0
    if (status in FINAL or searched_in_vain(record)) and not again:
        return _nothing_to_do(config, folder, record)
    if status is Status.failed and config.retry is Retry.none:
        return Status.failed
    here = runtime.resolve(config)  # before anything is removed: what this machine cannot run is left as it is
    if record and (again or record.get("starts_over")):
        record = group.by_first(partial(_start_over, folder, record))
    if config.distributed is Distributed.shard and group.size() > 1:
        runtime.give_back_at_once()
    with here.settings():
        return _attempt(config, folder, here, record)


def _start_over(folder: RunFolder, record: dict[str, Any]) -> dict[str, Any]:
    """Remove what earlier attempts left; a process killed in the midst of it leaves a record that says so."""
    begun = {"restarts": int(record.get("restarts", 0)) + 1, "begun": time.time()}
    record = record | begun | {"status": Status.running.value, "starts_over": True}
    folder.write(record)
    folder.start_over()
    return record


def _nothing_to_do(config: RunConfig, folder: RunFolder, record: dict[str, Any]) -> Status:
    """Clear away what a process left that was killed after its record; kept checkpoints stay, whatever is asked now."""
    kept = bool(record["config"].get("train", {}).get("keep_checkpoints"))
    folder.tidy(kept, config.purpose is Purpose.result)
    remark = checkpoints_not_kept(record, config.train.keep_checkpoints)
    if remark:
        progress.say(remark)
    return Status(record["status"])


def _attempt(config: RunConfig, folder: RunFolder, here: runtime.Runtime, previous: dict[str, Any]) -> Status:
    record = group.by_first(partial(_begin, config, folder, here, previous))
    tracker: tracking.Tracker = tracking.NullTracker()
    if group.first():
        tracker = tracking.start(config, record["config"], folder.id, folder.path, record["restarts"])
    ended = "interrupted"
    _tell_watch(config, folder.id)
    try:
        # The record has the configuration as given; what it leaves to the machine stands in its runtime.
        run = Run(replace(config, method=config.method.on(here)), here, folder, tracker)
        record |= _outcome_of(run) | {"tracker": tracker.url_or_folder}
        folder.write(record)
        ended = record["status"]
        if ended == Status.done:  # before the tracker, whose last upload may take minutes
            folder.tidy(config.train.keep_checkpoints, config.purpose is Purpose.result)
        progress.say(f"[{config.sweep.index}/{config.sweep.total}] {folder.id}: {summary(record)}")
        tracker.summarise(record)
    finally:
        tracker.finish(ended)
    return Status(ended)


def _outcome_of(run: Run) -> dict[str, Any]:
    """Return what the run adds to its record: results, or why there are none."""
    try:
        return work(run) | {"status": Status.done.value}
    except NotApplicable as error:
        return {"status": Status.not_applicable.value, "reason": str(error)}
    except TrainingError as error:  # trained on, it would end there again
        return _failure(run, str(error)) | {"starts_over": True, "diverged": isinstance(error, DivergedError)}
    except torch.cuda.OutOfMemoryError as error:
        batch = "train" if run.phases.current.endswith(TRAIN) else "eval"
        return _failure(run, f"out of GPU memory: {first_line(error)}; lower train.per_device_{batch}_batch_size")
    except Exception as error:  # one failed run must not stop a sweep: its record says what happened
        return _failure(run, _one_line(error))


def _one_line(error: Exception) -> str:
    if disk_full(error):
        return "no space left on the disk"
    if isinstance(error, HarnessError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"


def _begin(config: RunConfig, folder: RunFolder, here: runtime.Runtime, previous: dict[str, Any]) -> dict[str, Any]:
    record = _new_record(config, folder, here, previous)
    folder.write(record)
    return record


def _tell_watch(config: RunConfig, name: str) -> None:
    """Have the watch of several processes write the record where the main thread waits for one that does not come."""
    watch = current()
    if watch is not None:
        watch.write = RunFolder(config.output_dir, name).fail


def _shared(reason: str) -> str:
    """Return why a run of several processes failed: the loss of another one, where that broke this one's connection."""
    watch = current()
    if watch is None:
        return reason
    watch.handled = True
    broken = broken_connection(sys.exception())
    if broken and (number := watch.stopped()) is not None:
        raise stop.Preempted(number) if number in stop.watched() else KeyboardInterrupt
    found = watch.cause() if broken else None
    if found is None:
        watch.say(FAILED, reason)
    return found or reason


def _failure(run: Run, reason: str) -> dict[str, Any]:
    """Return a failed record's part; the phases before the one that failed stay, and the same command goes on there."""
    reason = _shared(reason)
    return {
        "status": Status.failed.value,
        "reason": reason,
        "phase": run.phases.current,
        "traceback": traceback.format_exc(),
    }


def _new_record(
    config: RunConfig, folder: RunFolder, here: runtime.Runtime, previous: dict[str, Any]
) -> dict[str, Any]:
    """Return the record of a run that has begun, with its attempts so far and this one.

    Raises :class:`RecordError` where this attempt would go on under other versions or on another device.
    """
    attempt = described(config, here) | resume_point(config, folder)
    earlier = previous.get("attempts")
    attempts = [*(earlier if isinstance(earlier, list) else []), attempt]
    if config.resume is not Resume.force:
        require_same_environment(attempts, folder.id)
    return {
        "schema_version": SCHEMA_VERSION,
        "id": folder.id,
        "status": Status.running.value,
        "reason": None,
        "rank": config.method.rank_used,
        "metric": config.task.metric,
        "purpose": config.purpose.value,
        "search": path_of(config),
        "started": previous.get("started") or attempt["started"],
        "restarts": int(previous.get("restarts", 0)),
        "begun": previous.get("begun") or time.time(),
        "attempts": attempts,
        "mixed": mixed(attempts),
        "config": identity.resolved(config),
        "identity": identity.identity(config),
        **{name: attempt[name] for name in ("runtime", "versions", "commit", "dirty", "machine")},
    }
