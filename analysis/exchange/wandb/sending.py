"""Into the W&B run that training began: the same id resumed, online or as another offline folder for ``wandb sync``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pandas as pd

from analysis.errors import AnalysisError
from analysis.exchange.wandb.findings import Findings, cells, findings
from analysis.records import history, record, samples
from harness.errors import first_line
from harness.storage.files import write_json
from harness.storage.privacy import masked
from harness.tracking import wandb as tracking
from harness.tracking.base import summarised, tracked_id

NOTE = Path("wandb") / "analysis.json"
"""In a run's folder: the hash of the findings that were sent last, and where to."""


@dataclass(frozen=True)
class Place:
    """Where training tracked a run."""

    mode: str
    """``online`` or ``offline``."""
    entity: str | None
    project: str
    timeout: float
    """Seconds to wait for W&B."""


def place(tracked: dict[str, Any]) -> Place:
    """Return where the run of a record was tracked.

    Raises :class:`AnalysisError` in one line where it was not.
    """
    where, asked = tracked.get("tracker"), tracked["config"].get("tracker", {})
    if not where:
        raise AnalysisError(f"{tracked['id']}: was not tracked (tracker=none), so W&B has no run to add to")
    if asked.get("name", "wandb") not in ("wandb", "none"):
        raise AnalysisError(f"{tracked['id']}: was tracked in {asked['name']}, so W&B has no run to add to")
    timeout = float(asked.get("init_timeout") or 30.0)
    parts = urlparse(str(where)).path.strip("/").split("/") if "://" in str(where) else []
    if len(parts) >= 4 and parts[-2] == "runs":
        return Place("online", parts[-4], parts[-3], timeout)
    return Place("offline", asked.get("entity"), asked.get("project") or "peft-harness", timeout)


def add_findings(run: pd.Series[Any], verdicts: pd.DataFrame | None = None) -> str:
    """Add what was found of a run, a row of the tidy table, and return a line that says what was done."""
    folder, found = Path(run["folder"]), findings(run, verdicts)
    if not found:
        return f"{run['id']}: nothing to add; python -m analysis.intruders {folder} counts its intruder dimensions"
    to = send(record(folder), folder, found)
    if to is None:
        return f"{run['id']}: already there"
    done = f"{run['id']}: added (values: {len(found.summary)}, tables: {len(found.tables)})"
    if "://" in to:
        return f"{done}: {to}"
    return f"{done}; to upload: wandb sync {folder}/wandb/offline-run-*"


def send(tracked: dict[str, Any], folder: Path, found: Findings) -> str | None:
    """Add findings to the run's summary and tables; return where to, None where the same were sent before.

    Raises :class:`AnalysisError` in one line where W&B has no such run or does not take them.
    """
    where, digest = place(tracked), found.digest()
    if _last(folder) == digest:
        return None
    if where.mode == "online" and not tracking.logged_in():
        raise AnalysisError(f"{tracked['id']}: was tracked online; run `wandb login` or set WANDB_API_KEY to add to it")
    try:
        with _resumed(where, tracked_id(tracked["id"], tracked.get("restarts", 0)), folder) as run:
            run.summary.update(_so_far(tracked, folder) | found.summary)
            run.summary.update({name: _table(table) for name, table in found.tables.items()})
            to = str(run.url) if where.mode == "online" else masked(str(Path(run.dir).resolve().parent))
    except Exception as error:  # whatever W&B raises costs this run's line, not the others'
        reason = first_line(error)
        raise AnalysisError(f"{tracked['id']}: W&B did not take the findings: {reason}") from None
    write_json(folder / NOTE, {"sha256": digest, "to": to})
    return to


def _so_far(tracked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what training left in the summary: ``wandb sync`` joins two parts' histories and configurations only.

    It uploads the parts of one run in the order of their beginning, so this one, the later, has to say all.
    """
    lines = history(folder)
    last = {} if lines.empty else lines.iloc[-1].drop("step", errors="ignore").dropna().to_dict()
    rows = pd.DataFrame(samples(folder))
    return last | summarised(tracked) | ({"samples": _table(rows)} if len(rows) else {})


def _last(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / NOTE).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _resumed(where: Place, run_id: str, folder: Path) -> Iterator[Any]:
    """Yield the W&B run with this id; W&B joins the histories of both parts, uploaded in order of their beginning."""
    run = tracking.wandb_library().init(
        id=run_id,
        resume="must" if where.mode == "online" else "allow",
        entity=where.entity,
        project=where.project,
        dir=str(folder),
        reinit="create_new",
        settings=tracking.quiet_settings(where.mode, where.timeout),
    )
    with tracking.staged_in(folder / "wandb"):
        try:
            yield run
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish(exit_code=0)


def _table(table: pd.DataFrame) -> Any:
    return tracking.wandb_library().Table(columns=[*table.columns], data=cells(table), allow_mixed_types=True)
