"""Tracking for TensorBoard: event files in the run's folder, for ``tensorboard --logdir runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.config import TrackerConfig
from harness.storage.privacy import masked
from harness.tracking.base import (
    TRACKERS,
    Start,
    Tracker,
    cell,
    columns,
    flatten,
    numbers,
    require_installed,
    require_no_adapter,
    summarised,
)

FOLDER = "tensorboard"


@TRACKERS.register("tensorboard")
class TensorBoardTracker(Tracker):
    """One run's event files; the summary is scalars named ``summary/…`` at the last step."""

    shown = "TensorBoard"

    def __init__(self, start: Start) -> None:
        self._folder, self._start = start.folder / FOLDER, start
        self._writer: Any = None
        self._step = 0
        self.url_or_folder = masked(str(self._folder.resolve()))

    @classmethod
    def check(cls, tracker: TrackerConfig) -> None:
        """Require the writer's package; there is nothing to log in to."""
        require_installed("tensorboardX", cls.name)
        require_no_adapter(tracker)

    @classmethod
    def begin(cls, start: Start) -> Tracker:
        """Return a tracker that writes from the first line of history on."""
        return cls(start)

    def _writing(self, step: int) -> Any:
        """Return the writer, opened at `step`: what an earlier part of the run wrote from there on is not shown."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # Its files are named by the second alone: one begun in the same second would replace the first.
            self._writer = SummaryWriter(str(self._folder), purge_step=step, filename_suffix=f".from-{step:08d}")
            lines = (f"    {name}: {value}" for name, value in flatten(self._start.resolved).items())
            self._writer.add_text("configuration", "\n".join(lines), step)
        self._step = max(self._step, step)
        return self._writer

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add a scalar for each metric."""
        with self.guarded("history"):
            writer = self._writing(step)
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
            writer.flush()

    def summarise(self, record: dict[str, Any]) -> None:
        """Add the record's numbers as scalars at the last step."""
        with self.guarded("summary"):
            for name, value in numbers(summarised(record)).items():
                self._writing(self._step).add_scalar(f"summary/{name}", value, self._step)

    def samples(self, rows: list[dict[str, Any]]) -> None:
        """Add the samples as a table in Markdown."""
        with self.guarded("samples"):
            self._writing(self._step).add_text("samples", markdown(rows), self._step)

    def adapter(self, folder: Path) -> None:
        """Do nothing: event files hold no files, and :meth:`check` refused to keep one."""

    def finish(self, status: str) -> None:
        """Say how the run ended, and close its file."""
        with self.guarded("end"):
            self._writing(self._step).add_text("status", status, self._step)
            self._writer.close()
            self._writer = None


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table; a cell's own bars and line ends would break it."""
    names = columns(rows)
    lines = [names, ["---"] * len(names), *([_text(row.get(name)) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    return "" if value is None else str(cell(value)).replace("|", "\\|").replace("\n", "<br>")
