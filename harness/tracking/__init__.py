"""Where a run's numbers go while it trains, one file a tracker: W&B, Trackio, TensorBoard, or none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from harness.config import RunConfig, TrackerConfig
from harness.tracking.base import TRACKERS, Start, Tracker
from harness.tracking.none import NullTracker

TRACKERS.discover(sys.modules[__name__])


def check(tracker: TrackerConfig) -> None:
    """Raise a :class:`ConfigError` if the run could not be tracked as asked; nothing is sent anywhere."""
    TRACKERS[tracker.name].check(tracker)


def start(config: RunConfig, resolved: dict[str, Any], run_id: str, folder: Path, restarts: int = 0) -> Tracker:
    """Begin tracking the run `run_id`, or go on with it where it was cut; what fails is said and the run untracked.

    One that has started over, `restarts` times, is a run of its own: trackers keep the steps that are there already.
    """
    return TRACKERS[config.tracker.name].begin(Start(config, resolved, run_id, folder, restarts))


__all__ = ["TRACKERS", "NullTracker", "Start", "Tracker", "check", "start"]
