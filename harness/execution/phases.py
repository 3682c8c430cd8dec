"""The phases of a run that are done: each is a folder with what it found and what it took, made whole or not at all.

A run goes on at its first phase without a folder, whatever ended the attempt before: what a phase needs of the earlier
ones it reads from their folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from harness.config import RunConfig
from harness.distributed import group
from harness.meter import Meter
from harness.storage.files import remove_partial, write_json

BASELINE, TRAIN, EVALUATE, HAND_OVER, PROBE, SAVE = "baseline", "train", "evaluate", "hand-over", "probe", "save"
METER = "meter.json"


class Phases:
    """The done phases of one run."""

    def __init__(self, folder: Path, meter: Meter) -> None:
        self.folder, self.meter = folder, meter
        self.current = BASELINE
        """The phase that is being worked on, which a failed record names."""
        if group.first():
            remove_partial(folder)

    def place(self, name: str) -> Path:
        """Return the folder of a phase."""
        return self.folder / name

    def once(self, name: str, work: Callable[[Path], None]) -> Path:
        """Return the folder that `work` fills; where an earlier attempt did, its seconds and peaks are counted."""
        self.current = name
        place = self.place(name)
        if group.by_first(place.is_dir):
            self.meter.add(group.own(json.loads((place / METER).read_text(encoding="utf-8"))))
            return place
        before = self.meter.state()
        with group.folder_of_first(place) as target:
            work(target)
            write_json(target / METER, group.kept_together(self.meter.since(before)))
        return place


def names(config: RunConfig) -> list[str]:
    """Return the phases of a run in order; a sequence of tasks trains and evaluates once for each."""
    found = [BASELINE]
    for number, task in enumerate(config.sequence or [None]):
        found += [phase_name(config, number, what) for what in (TRAIN, EVALUATE)]
        if task is not None and number + 1 < len(config.sequence):
            found.append(phase_name(config, number, HAND_OVER))
    return [*found, PROBE, SAVE]


def phase_name(config: RunConfig, number: int, what: str) -> str:
    """Return the name of a phase of one task: ``train``, or in a sequence ``2-boolq-train``."""
    return f"{number + 1}-{config.sequence[number]}-{what}" if config.sequence else what
