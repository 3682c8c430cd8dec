"""``python -m analysis.wandb``: what the analysis found, added to the runs in W&B, and a dashboard over them."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.command import Command, require, require_runs
from harness.errors import HarnessError

if TYPE_CHECKING:
    from analysis.exchange.wandb.names import Shown

USAGE = """\
Add what the analysis found to each run in W&B, or save a workspace and a report over a project's runs.

  python -m analysis.wandb runs/                                     counts, verdicts, tables, once a run
  python -m analysis.wandb runs/ dashboard=my-team/peft-harness      panels for what these runs measured; needs a login
  python -m analysis.wandb dashboard=my-team/peft-harness            panels for what any run may measure
  python -m analysis.wandb dashboard=my-team/peft-harness out=spec.json
                                                                     what would be saved, no network

  dashboard  entity/project, as in its address on W&B: create or update its workspace and report
  out        write the dashboard's specification to this file and send nothing
"""
ADDRESS = r"[^/\\#?%:\s]+/[^/\\#?%:]+"


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    runs: tuple[str, ...] = ()
    dashboard: str | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        if self.runs or self.dashboard is None:
            require_runs(self.runs)
        whole = self.dashboard is None or re.fullmatch(ADDRESS, self.dashboard) is not None
        require(whole, "dashboard", self.dashboard, "must be entity/project, as in https://wandb.ai/entity/project")
        require(self.out is None or self.dashboard is not None, "out", self.out, "needs dashboard=entity/project")


def work(settings: Settings) -> bool:
    """Add to the runs, or save the dashboard; return whether everything could be."""
    if settings.dashboard is None:
        return not add(settings)
    save(settings.dashboard, settings)
    return True


def add(settings: Settings) -> list[str]:
    """Add to every run that is done and say so; return the lines of those that could not be."""
    from analysis.exchange.wandb.findings import verdicts
    from analysis.exchange.wandb.sending import add_findings
    from analysis.records import read_runs

    runs = read_runs(*settings.runs)
    problems, done = list(runs.problems), runs.done()
    compared = verdicts(runs.table)
    for _, run in done[~done["foreign"]].iterrows():
        try:
            print(add_findings(run, compared.get(run["id"])))
        except HarnessError as error:
            problems.append(str(error))
    for line in problems:
        print(f"wandb: {line}", file=sys.stderr)
    return problems


def save(place: str, settings: Settings) -> None:
    """Save the dashboard, or write its specification."""
    from analysis.exchange.wandb.board import specification
    from analysis.exchange.wandb.saving import save
    from harness.storage.files import write_json
    from harness.storage.privacy import expanded

    shown = _shown(settings)
    entity, _, project = place.partition("/")
    if settings.out:
        write_json(expanded(settings.out), specification(entity, project, shown))
        print(f"{settings.out}: workspace and report as W&B would get them; nothing was sent")
        return
    for saved in save(entity, project, shown):
        print(f"{saved.what} {'created' if saved.new else 'updated'}: {saved.url}")


def _shown(settings: Settings) -> Shown:
    from analysis.exchange.wandb.names import all_metrics, measured

    if not settings.runs:
        return all_metrics()
    from analysis.records import read_runs

    return measured(read_runs(*settings.runs).table)


COMMAND = Command("wandb", USAGE, Settings, work, "the same command goes on")

if __name__ == "__main__":
    COMMAND.main()
