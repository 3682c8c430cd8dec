"""No tracker: the run's folder has everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.config import TrackerConfig
from harness.tracking.base import TRACKERS, Start, Tracker


@TRACKERS.register("none")
class NullTracker(Tracker):
    """Tracks nothing."""

    @classmethod
    def check(cls, tracker: TrackerConfig) -> None:
        """Accept everything."""

    @classmethod
    def begin(cls, start: Start) -> Tracker:
        """Return a tracker that does nothing."""
        return cls()

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Do nothing."""

    def summarise(self, record: dict[str, Any]) -> None:
        """Do nothing."""

    def samples(self, rows: list[dict[str, Any]]) -> None:
        """Do nothing."""

    def adapter(self, folder: Path) -> None:
        """Do nothing."""

    def finish(self, status: str) -> None:
        """Do nothing."""
