"""What stands on the page: rows and columns, and a section for each question, or the line that says what to run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from analysis.advise import Asked
from analysis.effects.blocks import Known
from analysis.records import Runs
from analysis.views.report import runs as each
from analysis.views.report.charts import charts
from analysis.views.report.citation import Citation, citations
from analysis.views.report.columns import columns
from analysis.views.report.verdicts import Verdicts, verdicts
from harness.storage.record import Status


@dataclass(frozen=True)
class Failure:
    """A run that is not done, and why."""

    row: int
    label: str
    id: str
    status: str
    reason: str


@dataclass(frozen=True)
class Content:
    """Everything that the template and the scripts show."""

    data: dict[str, Any]
    """For the scripts: columns, rows and what each run holds."""
    counts: dict[str, int]
    """Runs by status."""
    failures: list[Failure]
    problems: list[str]
    """What could not be read."""
    verdicts: Verdicts
    missing: dict[str, str]
    """Section → what to run so that it has something to show."""
    citations: list[Citation]
    searches: int
    """Runs that only tried a learning rate."""


MISSING = {
    "leaderboard": "No run has ended yet; see the runs that are not done below.",
    "forgetting": "No run measured forgetting: train without forgetting=none.",
    "samples": "No run has samples. A run writes them when it is done; language modelling has no answers to show.",
    "curves": "No run left a history: a run writes it while it trains.",
    "seeds": "One seed only: how far a result hangs on the seed is not known; sweep seed=0,1,2.",
}


def content(runs: Runs, against: str | None = None, asked: Asked | None = None) -> Content:
    """Return what a page of these runs shows; `against` is the configuration to compare with, all unless given.

    `asked` are the constraints of the advice.
    """
    table = runs.table.reset_index(drop=True)
    known: Known = {}
    judged = verdicts(table, against, known, asked)
    problems = [*runs.problems, *judged.problems]
    found = each.records_of(table)
    samples, curves = each.samples(table), each.histories(table)
    data = {
        "columns": columns(table),
        "rows": _rows(table),
        "settings": each.settings(table, found),
        "commands": [vars(command) for command in each.commands(found)],
        "tracebacks": [record.get("traceback") if record else None for record in found],
        "histories": curves,
        "samples": samples,
        "answers": [asdict(one) for one in judged.answers],
        "searches": each.searches(table),
        "charts": charts(table, known),
    }
    return Content(
        data=data,
        counts={status: int(count) for status, count in table["status"].value_counts().items()},
        failures=_failures(table),
        problems=list(dict.fromkeys(problems)),
        verdicts=judged,
        missing=_missing(table, samples, curves),
        searches=runs.searches,
        citations=citations(found),
    )


def _rows(table: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the tidy table by column, without what the page shows as settings."""
    kept = [key for key in table if not str(key).startswith(("config.", "version.", "foreign."))]
    return {str(key): [each.plain(value) for value in table[key]] for key in kept if table[key].notna().any()}


def _failures(table: pd.DataFrame) -> list[Failure]:
    rows = table[table["status"] != Status.done.value]
    names = ("label", "id", "status", "reason")
    cells = rows[list(names)].fillna("").to_dict("records")
    return [Failure(row=int(at), **row) for at, row in zip(rows.index, cells, strict=True)]  # type: ignore[misc]


def _missing(table: pd.DataFrame, samples: list[Any], curves: list[Any]) -> dict[str, str]:
    """Return the lines for what these runs do not have."""
    done = table[table["status"] == Status.done.value]
    absent = {
        "leaderboard": done.empty,
        "forgetting": not table["forgetting"].notna().any(),
        "samples": not any(samples),
        "curves": not any(curves),
        "seeds": done["seed"].nunique() == 1,
    }
    return {name: MISSING[name] for name, lacks in absent.items() if lacks}
