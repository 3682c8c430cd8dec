"""The run folder: the only thing that passes from training to analysis.

record.json     schema version, status and why, configuration, versions, machine, hashes, results
history.jsonl   a line per logging step
items.parquet   a row per evaluated item, before and after; what probes measured has splits named forgetting/...
evaluations.jsonl  what was right at each evaluation on the way, where there were any
samples.jsonl   a few inputs with the base's answer, the tuned answer and the reference
checkpoints/    trained state along the way; trained/ the final one
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.errors import RecordError
from harness.storage.files import finite, flush, remove_partial, write_bytes, write_json
from harness.storage.locks import exclusive
from harness.storage.outcomes import parquet, rows_of
from harness.storage.privacy import expanded, masked
from harness.tasks.base import Outcome

SCHEMA_VERSION = 2
REQUIRED = {"schema_version", "id", "status", "config"}


class Status(StrEnum):
    """How a run stands; a failed one is tried again, done and not applicable need nothing more."""

    running = "running"
    done = "done"
    failed = "failed"
    not_applicable = "not_applicable"


VOLATILE = (
    "started",
    "commit",
    "dirty",
    "seconds",
    "tokens_per_second",
    "memory",
    "machine",
    "attempts",
    "restarts",
    "begun",
    "mixed",
    "runtime",
    "tracker",
    "interruptions",
)
"""Keys of a record that differ between two runs of the same thing."""


def read_record(folder: Path) -> dict[str, Any]:
    """Read and check ``record.json``.

    Raises :class:`RecordError` where it is missing, damaged, or of a newer schema.
    """
    path = folder / "record.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path}: no record") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from None
    missing = sorted(REQUIRED - set(record)) if isinstance(record, dict) else sorted(REQUIRED)
    if missing:
        raise _damaged(path, f"it lacks {', '.join(missing)}")
    version = record["schema_version"]
    if not isinstance(version, int):
        raise _damaged(path, f"its schema_version is {version!r}")
    if version > SCHEMA_VERSION:
        raise RecordError(f"{path}: schema {version} is newer than {SCHEMA_VERSION}, the newest this version reads")
    if record["status"] not in {status.value for status in Status} or not isinstance(record["config"], dict):
        raise _damaged(path, f"its status is {record['status']!r}, its config a {type(record['config']).__name__}")
    return record  # type: ignore[no-any-return]


def checkpoints_not_kept(record: dict[str, Any], asked: bool) -> str | None:
    """Return what to do where checkpoints are asked of a finished run that did not keep any."""
    kept = record["config"].get("train", {}).get("keep_checkpoints")
    if not asked or kept or record["status"] != Status.done:
        return None
    return f"{record['id']}: done, and its checkpoints were not kept; retry=all trains it again and keeps them"


NO_WEIGHTS = "a run of a learning-rate search keeps no weights; take a run that was reported at the chosen rate"

ONLY_SEARCHES = "runs of a learning-rate search alone"


def of_search(record: dict[str, Any]) -> bool:
    """Return whether a run only tried a learning rate: it has no test scores and no weights, and is no result."""
    return record.get("purpose") == "search"


def searched_in_vain(record: dict[str, Any]) -> bool:
    """Return whether a run of a search diverged: that is what the search wanted to know, and not tried again."""
    return of_search(record) and record["status"] == Status.failed and bool(record.get("diverged"))


def _damaged(path: Path, how: str) -> RecordError:
    return RecordError(f"{path}: damaged, {how}; move the folder away to train the run again")


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record without what differs between two runs of the same thing: clock, memory, machine."""
    kept = {key: value for key, value in record.items() if key not in VOLATILE}
    config = {
        key: value
        for key, value in kept.get("config", {}).items()
        if key not in ("sweep", "output_dir", "cache_dir", "tracker")
    }
    return kept | {"config": config}


class RunFolder:
    """One run's folder, locked while this process trains it."""

    def __init__(self, output_dir: str | Path, run_id: str) -> None:
        self.id = run_id
        self.path = expanded(output_dir) / run_id
        self.checkpoints = self.path / "checkpoints"
        self.trained = self.path / "trained"

    @contextmanager
    def lock(self, wait: bool) -> Iterator[bool]:
        """Hold the run against other processes and hosts; yield False where another one has it."""
        with exclusive(self.path / ".lock", self.path, wait) as mine:
            if mine:
                for folder in [self.path, *self.path.glob("stages/*")]:
                    remove_partial(folder)
            yield mine

    def read(self) -> dict[str, Any] | None:
        """Return the record, None where the run has not begun.

        Raises :class:`RecordError` where it is damaged, or another run's.
        """
        if not (self.path / "record.json").exists():
            return None
        record = read_record(self.path)
        if record["id"] != self.id:
            raise RecordError(f"{self.path}/record.json: is another run's, {record['id']}; move the folder away")
        return record

    def status(self) -> Status | None:
        """Return the run's status, None where it has not begun."""
        record = self.read()
        return None if record is None else Status(record["status"])

    def write(self, record: dict[str, Any]) -> None:
        """Write the record atomically, without who the user is."""
        write_json(self.path / "record.json", masked(record))

    def fail(self, reason: str) -> None:
        """Note in the record why its processes ended, where none of them came to it."""
        self.write((self.read() or {}) | {"status": Status.failed.value, "reason": reason})

    def start_over(self) -> None:
        """Remove what earlier attempts left, so that the next one trains from the start."""
        for name in ("phases", "checkpoints", "trained", "stages"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("history.jsonl", "evaluations.jsonl", "items.parquet", "samples.jsonl"):
            (self.path / name).unlink(missing_ok=True)

    def stage(self, name: str) -> RunFolder:
        """Return the folder of one stage of a sequence of tasks, with a history and checkpoints of its own."""
        (self.path / "stages" / name).mkdir(parents=True, exist_ok=True)
        return RunFolder(self.path / "stages", name)

    def tidy(self, keep_checkpoints: bool, keep_trained: bool = True) -> None:
        """Remove what only going on with the run needed; where checkpoints are kept, those of all its tasks stay."""
        shutil.rmtree(self.path / "phases", ignore_errors=True)
        if not keep_trained:
            shutil.rmtree(self.trained, ignore_errors=True)
        if not keep_checkpoints:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            shutil.rmtree(self.path / "stages", ignore_errors=True)
        for path in (self.path / "stages").glob("*/*"):
            if path.name != "checkpoints":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def trim_history(self, step: int) -> None:
        """Drop history lines after `step`, which a resumed run writes again."""
        path = self.path / "history.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step(line) <= step]
        write_bytes(path, "".join(f"{line}\n" for line in kept).encode())

    def append_history(self, entry: dict[str, Any]) -> None:
        """Append one line; a line cut by a power failure is dropped when the run resumes."""
        with (self.path / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(entry)) + "\n")

    def losses(self) -> list[tuple[int, float]]:
        """Return the steps of the history with their losses."""
        lines = (self.path / "history.jsonl").read_text(encoding="utf-8").splitlines()
        return [(made["step"], made["loss"]) for made in map(json.loads, lines) if "loss" in made]

    def flush_history(self) -> None:
        """Force the history to disk: it must not end before the checkpoint that is written next."""
        path = self.path / "history.jsonl"
        if path.exists():
            flush(path)

    def write_items(
        self, outcomes: dict[str, dict[str, list[Outcome]]], clusters: Mapping[str, str] | None = None
    ) -> None:
        """Write ``items.parquet`` from outcomes by phase (before, after) and split.

        `clusters` says by item what it shares with others, such as a passage; an item without one stands for itself.
        """
        rows = [row for phase, series in outcomes.items() for row in rows_of(series, phase=phase)]
        rows = [row | {"cluster": (clusters or {}).get(row["item"], row["item"])} for row in rows]
        write_bytes(self.path / "items.parquet", parquet(rows))

    def write_samples(self, rows: list[dict[str, Any]]) -> None:
        """Write ``samples.jsonl``."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_bytes(self.path / "samples.jsonl", text.encode())


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
