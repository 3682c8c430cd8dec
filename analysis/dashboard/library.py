"""``wandb-workspaces``, which warns at import of pydantic validators of its own that are out of date."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

from harness import track


def workspaces() -> Any:
    """Return the modules of wandb-workspaces: ``ws``, ``wr``, ``expr`` and ``views``; nothing is sent."""
    track.wandb_library()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
        from wandb_workspaces.workspaces import internal as views
    return SimpleNamespace(ws=ws, wr=wr, expr=expr, views=views)
