"""The result file of PEFT's ``method_comparison/MetaMathQA``: one JSON object of three parts, read and checked.

run_info    when, how long, which experiment, ``train_config``, ``peft_config`` (null: full fine-tuning), ``error_msg``
train_info  memory, seconds, size, parameters, ``status``, ``metrics``: an entry per evaluation, the test's last
meta_info   model and data revisions, packages, system

As in PEFT's ``MetaMathQA/utils.py`` (``log_results``) and ``processing.py``, its reader, and in three published files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import RecordError, first_line

FILE = "peft_suite.json"
"""What an imported result is called in its folder; its bytes are those of the file it came from."""
PARTS = ("run_info", "train_info", "meta_info")
STATUSES = {"success": "done", "failed": "failed", "canceled": "failed"}
"""Their status → ours."""
OWN = "peft_harness"
"""A fourth part that exports of this project carry and PEFT's reader passes over: what the schema has no place for."""
UNMEASURED_SIZE = 99_999_999
"""``file_size`` where saving the adapter failed: a stand-in in their ``get_file_size``, no number of bytes."""

Result = dict[str, Any]


def read(path: Path) -> Result:
    """Read a result file.

    Raises :class:`RecordError`, in one line, where it is damaged or something else.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"{path}: damaged, {first_line(error)}") from None
    if reason := unlike(result):
        raise RecordError(f"{path}: no result file of PEFT's method comparison, {reason}")
    return result  # type: ignore[no-any-return]


def unlike(result: Any) -> str | None:
    """Return what keeps an object from being a result file, None where nothing does."""
    if not isinstance(result, dict):
        return f"it holds a {type(result).__name__}"
    for part in PARTS:
        if not isinstance(result.get(part), dict):
            return f"it lacks {part}"
    status, metrics = result["train_info"].get("status"), result["train_info"].get("metrics", [])
    if status not in STATUSES:
        return f"its status is {status!r}, not one of {', '.join(STATUSES)}"
    if not isinstance(metrics, list) or not all(isinstance(entry, dict) for entry in metrics):
        return "its metrics are no list of objects"
    return None


def at(tree: Any, path: str) -> Any:
    """Return what stands at a dotted path, None where the path ends early."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value with its dotted path; a list or an empty object is one value, as JSON; null is none."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        elif isinstance(value, dict | list):
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
        elif value is not None:
            yield f"{prefix}{key}", value
