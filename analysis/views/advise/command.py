"""The command: from folders, or from none, to advice."""

from __future__ import annotations

import json
from dataclasses import asdict

import pandas as pd

from analysis.advise import Asked, Settings, asked
from analysis.effects.blocks import effects_of
from analysis.effects.comparisons import compare
from analysis.effects.outcomes import FORGETTING
from analysis.errors import AnalysisError
from analysis.records import read_runs
from analysis.views.advise.advice import Advice, advices
from analysis.views.advise.words import sentences, text
from analysis.views.table.writing import show
from harness import __version__
from harness.errors import ConfigError, nearest
from harness.identity import plain


def run(settings: Settings) -> None:
    """Print the advice, the plans of no runs, or the matrix."""
    if settings.capabilities is not None:
        print_matrix(settings)
        return
    given = asked(settings)
    if not settings.runs:
        from analysis.views.advise import rules

        print(rules.as_json(given) if settings.json else rules.text(given))
        return
    found, problems = advise(settings, given)
    if settings.json:
        print(as_json(found, problems))
        return
    print("\n\n".join(text(one) for one in found))
    print("\n".join(["", *problems]).rstrip())


def advise(settings: Settings, given: Asked) -> tuple[list[Advice], list[str]]:
    """Return the advice on each model and task of some folders, and what is not fair or could not be read."""
    runs = read_runs(*settings.runs)
    table = narrowed(runs.table, given)
    effects = effects_of(table)
    if effects.chosen.empty:
        raise AnalysisError(f"{', '.join(settings.runs)}: no run here has finished, so nothing to base advice on")
    scored = compare(effects, margin=given.margin)
    forgot = compare(effects, margin=given.margin, outcome=FORGETTING)
    found = advices(table, effects, given, scored.found, forgot.found)
    problems = [f"problem: {line}" for line in (*runs.problems, *effects.problems)]
    return found, list(dict.fromkeys([*(f"not fair: {line}" for line in effects.warnings), *problems]))


def narrowed(table: pd.DataFrame, given: Asked) -> pd.DataFrame:
    """Return the runs of the task and model that are asked about; raise :class:`ConfigError` where there are none."""
    for key, column, wanted in (("data", "task", given.data), ("model", "model", given.model)):
        names = [str(name) for name in table[column].dropna().unique()]
        if wanted is not None and wanted not in names:
            raise ConfigError(key, wanted, f"no run has it; {nearest(wanted, names)}")
        table = table if wanted is None else table[table[column] == wanted]
    return table


def as_json(found: list[Advice], problems: list[str]) -> str:
    """Return the advice as JSON, numbers that are not known as null."""
    every = [plain(asdict(one)) | {"text": " ".join(sentences(one))} for one in found]
    described = {"version": __version__, "advice": every, "notes": problems}
    return json.dumps(_finite(described), ensure_ascii=False, indent=1, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value  # of NaN and infinity


def print_matrix(settings: Settings) -> None:
    """Print what every method can do, tried now or kept from before."""
    from analysis.views.advise import matrix
    from analysis.views.advise.tiny import Kind

    methods = [*matrix.registered(), *(matrix.tuners() if settings.capabilities == "all" else ())]
    rows = matrix.rows(matrix.matrix(methods, (Kind.decoder, Kind.encoder)))
    if settings.json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    show(pd.DataFrame(rows, dtype="str"))
    print("\ntried on tiny models with these library versions; ? could not be tried; the note is of the first no")
