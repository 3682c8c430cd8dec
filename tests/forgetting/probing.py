"""Runs of seconds with probes and sequences: what tests of forgetting share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import small_runs

from harness.config import RunConfig
from harness.execution.execute import execute
from harness.storage.record import read_record

small = small_runs.small_probes


def sequence_of(config: RunConfig, data: Path, *kinds: str) -> RunConfig:
    """Return the run as a sequence of tasks over the small files, one of each kind."""
    tasks = {kind: small_runs.configure("runs", *_model(config), *small_runs.task(kind, data)).task for kind in kinds}
    return replace(config, sequence=list(kinds), sequence_tasks=tasks, task=tasks[kinds[-1]])


def _model(config: RunConfig) -> list[str]:
    return ["model=custom", f"model.path={config.model.path}"] if config.model.path else [f"model={config.model.name}"]


def run(config: RunConfig) -> tuple[Path, dict[str, Any]]:
    """Execute a configuration and return its folder and record."""
    execute(config)
    folder = small_runs.folder_of(config)
    return folder, read_record(folder)
