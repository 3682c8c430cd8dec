"""The workspace and the report as objects of ``wandb-workspaces``, and as plain JSON."""

from __future__ import annotations

import json
from typing import Any

from analysis.exchange.wandb import names
from analysis.exchange.wandb.names import Shown, workspaces
from analysis.exchange.wandb.panels import HEIGHT, ROW, WIDTH, Section, sections

TITLE = "PEFT Harness"
DONE = "Metric('State') == 'finished' and Metric('JobType') != 'search'"
"""Results alone: a run of a search answered the validation split at a rate that may be any."""
MAX_RUNS = 100
"""Drawn in a panel; W&B's own default is 10, and a sweep of eight methods, three ranks and three seeds has 72."""


def workspace(entity: str, project: str, shown: Shown) -> Any:
    """Return the saved view: the runs grouped by method and rank, best first, and all sections."""
    library = workspaces()
    ws, expr = library.ws, library.expr
    settings = ws.RunsetSettings(
        filters=DONE,
        groupby=[expr.Config(names.METHOD), expr.Config(names.RANK)],
        order=[expr.Ordering(expr.Summary(names.score(shown.metrics[0])), ascending=False)],
        pinned_columns=columns(shown),
    )
    return ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=[ws.Section(name=one.name, panels=list(one.panels), is_open=True) for one in sections(shown)],
        settings=ws.WorkspaceSettings(x_axis="tokens", max_runs=MAX_RUNS),
        runset_settings=settings,
    )


def report(entity: str, project: str, shown: Shown, runset: Any) -> Any:
    """Return the report: each section with how to read it, over the runs of `runset`."""
    wr = workspaces().wr
    blocks = [wr.TableOfContents()]
    for section in sections(shown):
        blocks += [wr.H1(section.name), wr.MarkdownBlock(section.text), _grid(section, runset)]
    return wr.Report(entity=entity, project=project, title=TITLE, description=DESCRIPTION, blocks=blocks, width="fluid")


def runs(shown: Shown, entity: str = "", project: str = "") -> Any:
    """Return the report's set of runs, best first; with entity and project, W&B is asked for the project's id."""
    wr = workspaces().wr
    found = wr.Runset(
        entity=entity,
        project=project,
        name="runs that are done",
        filters=DONE,
        groupby=[f"config.{names.METHOD}", f"config.{names.RANK}"],
        order=[wr.OrderBy(wr.SummaryMetric(names.score(shown.metrics[0])), ascending=False)],
        pinned_columns=columns(shown),
    )
    found._id = "peftharness"
    return found


def columns(shown: Shown) -> list[str]:
    """Return the leaderboard's columns, as W&B addresses them."""
    summary = [names.score(metric, end) for metric in shown.metrics for end in ("value", "low", "high")]
    summary += [names.score(metric, phase="before") for metric in shown.metrics]
    summary += [names.delta(probe) for probe in shown.probes]
    summary += [
        names.VERDICT,
        names.FORGOTTEN,
        names.analysed("intruders_excess"),
        names.TRAINABLE,
        names.SECONDS,
        *names.MEMORY.values(),
    ]
    config = [names.METHOD, names.RANK, names.SEED, names.RATE]
    return ["run:displayName", *map(_config_column, config), *(f"summary:{name}" for name in summary)]


def _config_column(key: str) -> str:
    first, _, rest = key.partition(".")
    return f"config:{first}.value" + (f".{rest}" if rest else "")


def _grid(section: Section, runset: Any) -> Any:
    wr = workspaces().wr
    for number, panel in enumerate(section.panels):
        column, row = number % (ROW // WIDTH), number // (ROW // WIDTH)
        panel.layout = wr.Layout(x=column * WIDTH, y=row * HEIGHT, w=WIDTH, h=HEIGHT)
    return wr.PanelGrid(runsets=[runset], panels=list(section.panels))


def specification(entity: str, project: str, shown: Shown) -> dict[str, Any]:
    """Return both as JSON has them, without a word to W&B: the report's runs are those of its own project."""
    view, page = workspace(entity, project, shown)._to_model(), report(entity, project, shown, runs(shown))._to_model()
    return {
        "entity": entity,
        "project": project,
        "workspace": {"name": TITLE, "spec": _plain(view.spec)},
        "report": {"title": TITLE, "description": DESCRIPTION, "spec": _plain(page.spec)},
    }


def _plain(spec: Any) -> dict[str, Any]:
    return json.loads(spec.model_dump_json(by_alias=True, exclude_none=True))  # type: ignore[no-any-return]


DESCRIPTION = "What each fine-tuning method learns, forgets and costs. Made by python -m analysis.wandb."
