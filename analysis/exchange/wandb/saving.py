"""Saving into W&B so that a second time updates the first: one view, one report, however often and from wherever.

The view is found by a name of its own in the project, the report by its title; nothing is stored on this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.errors import AnalysisError
from analysis.exchange.wandb.board import report, runs, workspace
from analysis.exchange.wandb.names import Shown, workspaces
from harness.errors import first_line
from harness.tracking import wandb as tracking

VIEW = "nw-peftharness-v"
"""The view's internal name: W&B's are of this form, with eleven letters and digits."""


@dataclass(frozen=True)
class Saved:
    """Where something was saved."""

    what: str
    url: str
    new: bool


def save(entity: str, project: str, shown: Shown) -> list[Saved]:
    """Create or update the workspace and the report.

    Raises :class:`AnalysisError` in one line where there is no login, no such project, or W&B refuses.
    """
    if not tracking.logged_in():
        raise AnalysisError(
            "needs a W&B login: run `wandb login` or set WANDB_API_KEY; out=spec.json writes what would be saved"
        )
    try:
        return [_save_workspace(entity, project, shown), _save_report(entity, project, shown)]
    except Exception as error:  # its errors are of many kinds, and over many lines
        reason = first_line(error)
        raise AnalysisError(f"{entity}/{project}: W&B did not take the dashboard: {reason}") from None


def _save_workspace(entity: str, project: str, shown: Shown) -> Saved:
    view = workspace(entity, project, shown)
    known = _view_id(entity, project)
    view._internal_name, view._internal_id = VIEW, known or ""
    view.save()
    return Saved("workspace", view.url, known is None)


def _view_id(entity: str, project: str) -> str | None:
    """Return the id of the view that was saved before; a project that W&B does not know is an error."""
    views = workspaces().views
    try:
        return str(views.get_view_dict(entity, project, views._internal_name_to_url_query_str(VIEW))["id"])
    except ValueError as error:
        if str(error).startswith("Workspace "):
            return None
        raise


def _save_report(entity: str, project: str, shown: Shown) -> Saved:
    page = report(entity, project, shown, runs(shown, entity, project))
    page.id = _report_id(entity, project, page.title) or ""
    new = not page.id
    page.save()
    return Saved("report", page.url, new)


def _report_id(entity: str, project: str, title: str) -> str | None:
    """Return the id of the report with this title, the one changed last where people made copies of it."""
    api: Any = tracking.wandb_library().Api()
    found = [one for one in api.reports(f"{entity}/{project}") if one.display_name == title]
    return str(max(found, key=lambda one: str(one.updated_at)).id) if found else None
