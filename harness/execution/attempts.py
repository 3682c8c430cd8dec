"""The attempts of a run: under what each worked, from where it went on, and whether that may be mixed."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from harness import identity
from harness.config import RunConfig
from harness.errors import RecordError
from harness.execution.phases import BASELINE, TRAIN, names, phase_name
from harness.runtime import Runtime
from harness.storage.record import RunFolder
from harness.training.arguments import optimizer
from harness.training.checkpoint import latest, step_of

Attempt = dict[str, Any]


def described(config: RunConfig, here: Runtime) -> Attempt:
    """Return under what an attempt works: when, versions, commit, machine, and the whole runtime."""
    commit, dirty = identity.commit()
    config = replace(config, method=config.method.on(here))
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": dict(here.versions),
        "commit": commit,
        "dirty": dirty,
        "machine": here.machine(),
        "runtime": here.describe() | {"optimizer": optimizer(config), "method": config.method.resolved()},
    }


def resume_point(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Return the phase that an attempt begins with, and the step of the checkpoint that it goes on from."""
    done = folder.path / "phases"
    phase = next((name for name in names(config) if not (done / name).is_dir()), names(config)[-1])
    for number, task in enumerate(config.sequence or [None]):
        if phase == phase_name(config, number, TRAIN):
            own = folder.path / "stages" / f"{number + 1}-{task}" if task else folder.path
            checkpoint = latest(own / "checkpoints")
            return {"from_phase": phase, "from_step": step_of(checkpoint) if checkpoint else 0}
    return {"from_phase": phase, "from_step": 0}


def continues(attempt: Attempt) -> bool:
    """Return whether an attempt builds on what an earlier one trained."""
    phase = attempt["from_phase"]
    first = phase == TRAIN or (phase.startswith("1-") and phase.endswith(f"-{TRAIN}"))
    return attempt["from_step"] > 0 or not (phase == BASELINE or first)


def require_same_environment(attempts: Sequence[Attempt], run: str) -> None:
    """Raise :class:`RecordError` where the newest attempt would go on under other versions or on another device."""
    if len(attempts) < 2 or not continues(attempts[-1]):
        return
    changed = [*_versions(*attempts[-2:]), *_device(*attempts[-2:])]
    if changed:
        where = attempts[-1]["from_phase"]
        choice = f"resume=force goes on at {where} and marks its numbers, retry=all starts over"
        raise RecordError(f"{run} was begun under other conditions ({', '.join(changed)}): {choice}")


def mixed(attempts: Sequence[Attempt]) -> list[str]:
    """Return what differed between the attempts that made a run's numbers: versions, commits, device, threads."""
    found: list[str] = []
    for earlier, later in pairwise(attempts):
        if not continues(later):
            found = []  # it started over: nothing of the attempts before is in its numbers
        else:
            found += [*_versions(earlier, later), *_device(earlier, later), *_other(earlier, later)]
    return list(dict.fromkeys(found))


def _versions(earlier: Attempt, later: Attempt) -> Iterator[str]:
    for name in sorted({**earlier["versions"], **later["versions"]}):
        yield from _changed(name, earlier["versions"].get(name), later["versions"].get(name))


def _device(earlier: Attempt, later: Attempt) -> Iterator[str]:
    for name in ("device", "gpu"):
        yield from _changed(name, earlier["runtime"][name], later["runtime"][name])
    methods = earlier["runtime"]["method"], later["runtime"]["method"]
    for name in methods[1]:
        yield from _changed(name, methods[0].get(name), methods[1][name])


def _other(earlier: Attempt, later: Attempt) -> Iterator[str]:
    """Yield what rounds otherwise, and is not refused for that: a cluster gives a job that goes on any node."""
    yield from _changed("processor", earlier["machine"]["processor"], later["machine"]["processor"])
    for name in ("threads", "processes", "kernels", "environment"):
        yield from _changed(name, earlier["runtime"][name], later["runtime"][name])
    yield from _changed("commit", _short(earlier), _short(later))


def _short(attempt: Attempt) -> str:
    return str(attempt["commit"])[:8] + (" with changes" if attempt["dirty"] else "")


def _changed(name: str, before: object, after: object) -> Iterator[str]:
    if before != after:
        yield f"{name} {before} → {after}"
