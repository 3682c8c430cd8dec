"""What a sweep set out to do: ``<output_dir>/.sweeps/<name>.json`` names its runs before the first has a record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.storage.files import write_json
from harness.storage.privacy import expanded, masked

FOLDER = ".sweeps"


def note(output_dir: str, name: str, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Add runs, by id with what is like of them, to those that a sweep has set out to do."""
    path = expanded(output_dir) / FOLDER / f"{name}.json"
    known = _read(path) or {"name": name, "runs": {}}
    write_json(path, masked(known | {"runs": known["runs"] | dict(runs)}))


def noted(folder: Path) -> list[dict[str, Any]]:
    """Return the sweeps that were noted in a folder of runs, the oldest first."""
    paths = sorted((folder / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime)
    return [found for path in paths if (found := _read(path)) is not None]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    fine = isinstance(found, dict) and isinstance(found.get("name"), str) and isinstance(found.get("runs"), dict)
    return found if fine else None


def kind(config: Mapping[str, Any], rank: Any) -> dict[str, Any]:
    """Return by what runs are alike enough to take about as long: model, task, method, rank, and steps."""
    train, data = config.get("train", {}), config.get("task", {})
    return {
        "model": _named(config.get("model", {})),
        "task": config.get("sequence") or data.get("dataset"),
        "method": config.get("method", {}).get("name"),
        "rank": rank,
        "steps": [train.get("max_steps"), train.get("num_train_epochs"), data.get("max_train")],
        "purpose": config.get("purpose"),
    }


def _named(model: Mapping[str, Any]) -> Any:
    return model.get("name") or model.get("id") or model.get("path")


def like(one: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return what runs share that are alike in these respects."""
    return json.dumps([one.get(name) for name in names], sort_keys=True, default=str)
