"""What every tracker shares: the protocol, runs' names, and that none of its errors ends a training."""

from __future__ import annotations

import json
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from harness.config import RunConfig, TrackerConfig, require
from harness.errors import ConfigError
from harness.registry import Registry

log = logging.getLogger(__name__)

TRACKERS: Registry[Tracker] = Registry("tracker", choosable=False)
SUMMARISED = ("status", "search", "scores", "forgetting", "parameters", "seconds", "tokens", "memory")
"""The record's keys that go to a tracker's summary, where they are there."""
COMPLETE = ("done", "not_applicable")


@dataclass(frozen=True)
class Start:
    """A run that is to be tracked."""

    config: RunConfig
    resolved: dict[str, Any]
    """The configuration as the record has it."""
    run_id: str
    folder: Path
    restarts: int = 0

    @property
    def key(self) -> str:
        """Return the name that the run has in the tracker: the same when it is resumed."""
        return tracked_id(self.run_id, self.restarts)


class Tracker(ABC):
    """One tracked run; no method but :meth:`check` raises."""

    name: ClassVar[str] = "tracker"
    shown: ClassVar[str] = "the tracker"
    """What messages call it."""
    url_or_folder: str | None = None
    """The run's page, or where its files are."""

    @classmethod
    @abstractmethod
    def check(cls, tracker: TrackerConfig) -> None:
        """Raise a :class:`ConfigError` if a run could not be tracked so; nothing is sent."""

    @classmethod
    @abstractmethod
    def begin(cls, start: Start) -> Tracker:
        """Begin a run or go on with it; where that fails say so and return a tracker that does nothing."""

    @abstractmethod
    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add one line of history; a step already there, as after a resume, stays once."""

    @abstractmethod
    def summarise(self, record: dict[str, Any]) -> None:
        """Put the record's final numbers into the run's summary, as ``scores/test/accuracy``."""

    @abstractmethod
    def samples(self, rows: list[dict[str, Any]]) -> None:
        """Show a few inputs with the base's answer, the tuned answer and the reference as the table ``samples``."""

    @abstractmethod
    def adapter(self, folder: Path) -> None:
        """Keep the trained state as an artifact, if ``tracker.log_adapter``."""

    @abstractmethod
    def finish(self, status: str) -> None:
        """End the run: it is complete if it is done or not applicable."""

    _warned = False

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Let no error of the tracker through; a lost chart must not cost a trained model. The first is said."""
        try:
            yield
        except Exception as error:
            if not self._warned:
                log.warning("%s did not take the run's %s (%s); training goes on", self.shown, what, reason(error))
            self._warned = True


def require_installed(package: str, tracker: str) -> None:
    """Raise a :class:`ConfigError` where a tracker's package is not there."""
    ways = f"needs the package {package}: pip install 'peft-harness[{tracker}]'"
    require(find_spec(package) is not None, "tracker", tracker, ways)


def require_project(tracker: TrackerConfig) -> None:
    """Raise a :class:`ConfigError` for a project's name that a tracker would refuse."""
    plain = re.fullmatch(r"[^/\\#?%:]{1,128}", tracker.project) is not None
    require(plain, "tracker.project", tracker.project, r"1 to 128 characters without / \ # ? % :")


def require_no_adapter(tracker: TrackerConfig) -> None:
    """Raise a :class:`ConfigError` where an adapter is to be kept and the tracker keeps no files."""
    if tracker.log_adapter:
        raise ConfigError(
            "tracker.log_adapter", True, f"{tracker.name} keeps no files; the run's folder has the adapter"
        )


def label(config: RunConfig) -> str:
    """Name a run for people: ``lora-r16-trec-smollm2_135m-s0``."""
    rank = getattr(config.method, "rank", None)
    method = config.method.name if rank is None else f"{config.method.name}-r{rank}"
    return f"{method}-{data_sets(config)}-{config.model.name}-s{config.seed}"


def data_sets(config: RunConfig) -> str:
    """Name the data a run learns, of a sequence in order: ``trec+boolq``."""
    tasks = [config.sequence_tasks[name] for name in config.sequence] or [config.task]
    return "+".join(task.dataset for task in tasks)


def summarised(record: Mapping[str, Any]) -> dict[str, float | str]:
    """Return what of a record a tracker's summary holds, as ``scores/after/test/accuracy/value``."""
    return flatten({key: record[key] for key in SUMMARISED if key in record})


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, float | str]:
    """Return the numbers and strings of nested dicts and lists by path; anything else is left out."""
    leaves: dict[str, float | str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flatten(value, f"{prefix}{key}/")
        elif isinstance(value, list | tuple):
            leaves |= flatten(dict(enumerate(value)), f"{prefix}{key}/")
        elif isinstance(value, int | float | str):
            leaves[f"{prefix}{key}"] = value
    return leaves


def numbers(leaves: Mapping[str, float | str]) -> dict[str, float]:
    """Return those of a summary that are numbers, for trackers that keep no text in one."""
    return {name: float(value) for name, value in leaves.items() if isinstance(value, int | float)}


def tracked_id(run_id: str, restarts: int = 0) -> str:
    """Return the id that a run has after so many restarts; W&B takes letters, digits, _ and - only."""
    return re.sub(r"[^\w-]", "-", f"{run_id}-retry{restarts}" if restarts else run_id)


def columns(rows: list[dict[str, Any]]) -> list[str]:
    """Return all keys of rows, in order of first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def cell(value: Any) -> Any:
    """Return a table cell: a plain value as it is, anything nested as JSON."""
    if value is None or isinstance(value, int | float | str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)


def reason(error: BaseException) -> str:
    """Return the first line of an error, short, and without the user's key should it stand there."""
    text = " ".join(str(error).split("\n", 1)[0].split())[:160]
    key = os.environ.get("WANDB_API_KEY")
    return f"{type(error).__name__}: {text.replace(key, '***') if key else text}"
