"""Tracking in Trackio: a local data base, no account, shown by ``trackio show``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
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
    label,
    log,
    numbers,
    reason,
    require_installed,
    require_project,
    summarised,
)
from harness.tracking.none import NullTracker


@TRACKERS.register("trackio")
class TrackioTracker(Tracker):
    """One Trackio run of the project ``tracker.project``, named by the run's id; the summary is a last line of history.

    Where its data base is says Trackio: ``$TRACKIO_DIR``, else the cache of Hugging Face.
    """

    shown = "Trackio"

    def __init__(self, run: Any, start: Start, place: Path, last: int) -> None:
        self._run, self._log_adapter = run, start.config.tracker.log_adapter
        self._last = last
        self.url_or_folder = masked(str(place))

    @classmethod
    def check(cls, tracker: TrackerConfig) -> None:
        """Require the package and a project's name that can be a file's."""
        require_installed("trackio", cls.name)
        require_project(tracker)

    @classmethod
    def begin(cls, start: Start) -> Tracker:
        """Begin the run or go on with the one of its name; what Trackio prints is not shown."""
        try:
            with quiet():
                return cls._begun(start)
        except Exception as error:
            log.warning("Trackio cannot track this run (%s); training goes on", reason(error))
            return NullTracker()

    @classmethod
    def _begun(cls, start: Start) -> Tracker:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        project = start.config.tracker.project
        run = trackio.init(
            project,
            name=start.key,
            group=start.config.sweep.name,
            config={"label": label(start.config), "tags": list(start.config.tracker.tags), **masked(start.resolved)},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        last = SQLiteStorage.get_last_step(project, start.key)
        return cls(run, start, Path(SQLiteStorage.get_project_db_path(project)), -1 if last is None else int(last))

    def _add(self, values: dict[str, Any], step: int) -> None:
        with quiet():
            self._run.log(values, step=step)
        self._last = max(self._last, step)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Add one line of history; Trackio would keep a step twice that a resumed run takes again."""
        with self.guarded("history"):
            if step > self._last:
                self._add(dict(metrics), step)

    def summarise(self, record: dict[str, Any]) -> None:
        """Add the record's numbers, named ``summary/…``, at the last step."""
        with self.guarded("summary"):
            found = {f"summary/{name}": value for name, value in numbers(summarised(record)).items()}
            self._add(found, max(self._last, 0))

    def samples(self, rows: list[dict[str, Any]]) -> None:
        """Add the samples as a table."""
        with self.guarded("samples"):
            import pandas as pd
            import trackio

            names = columns(rows)
            frame = pd.DataFrame([[cell(row.get(name)) for name in names] for row in rows], columns=names)
            self._add({"samples": trackio.Table(dataframe=frame.astype(object))}, max(self._last, 0))

    def adapter(self, folder: Path) -> None:
        """Keep the files of `folder` as an artifact of the run."""
        if not self._log_adapter:
            return
        with self.guarded("adapter"), quiet():
            self._run.log_artifact(str(folder.resolve()), name=f"adapter-{self._run.name}", type="adapter")

    def finish(self, status: str) -> None:
        """Wait until what was logged is in the data base."""
        with self.guarded("end"), quiet():
            self._run.finish()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what Trackio prints of itself out of the run's output."""
    with redirect_stdout(io.StringIO()):
        yield
