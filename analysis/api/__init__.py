"""From sweep to answer in Python: five calls, each of which does what the command line of its name does.

>>> from analysis.api import compare, figures, read, report, sweep
>>> runs = sweep("method=full,lora,prefix", "rank=8", "seed=0,1,2", output_dir="runs")
>>> compare(runs, against="full")

They print what the commands print, and return it as paths and tables.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import ConfigError, HarnessError, nearest

if TYPE_CHECKING:
    import pandas as pd

S = TypeVar("S")
Folder = str | Path


def sweep(*overrides: str, output_dir: Folder = "runs") -> Path:
    """Train every combination of the overrides, as ``harness run -m``, and return the folder of the runs.

    What is there already is not trained again. Raises :class:`HarnessError` for a mistake, and where a run failed.
    """
    from harness.compose import HydraException, OmegaConfBaseException, explain
    from harness.run import train
    from harness.storage.privacy import expanded

    try:
        train(["-m", *overrides, f"output_dir={output_dir}"])
    except (HydraException, OmegaConfBaseException) as error:
        raise HarnessError(explain(error, list(overrides))) from None
    except SystemExit as ended:
        if ended.code:
            raise HarnessError("a run failed, as its line says; the same call tries it again") from None
    return expanded(str(output_dir))


def read(*runs: Folder, where: Sequence[str] = ()) -> pd.DataFrame:
    """Return the results, a row a run, of those that satisfy every ``column=value``; warn of what cannot be read."""
    from analysis.records import read_runs
    from analysis.views.table import filtering

    found = read_runs(*runs)
    for problem in found.problems:
        warnings.warn(problem, stacklevel=2)
    return filtering.chosen(found.table, tuple(where))


def compare(*runs: Folder, **options: Any) -> pd.DataFrame:
    """Say which configuration is better, as ``harness compare``, and return the comparisons, a row each.

    `options` are those of the command: outcomes, against, margin, where, pareto, learning, across, out.
    """
    import pandas as pd

    from analysis.compare import Choice
    from analysis.views.table.command import compare_all

    made = compare_all(settings(Choice, runs, options))
    tables = [found.table().assign(outcome=outcome) for outcome, found in made.items() if found.found]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def figures(*runs: Folder, **options: Any) -> list[Path]:
    """Draw what the runs have data for, as ``harness figures``, and return the files that were written."""
    from analysis.figures import Settings
    from analysis.views.drawing.command import draw_all

    return draw_all(settings(Settings, runs, options))


def report(*runs: Folder, **options: Any) -> Path:
    """Write the page of the runs, as ``harness report``, and return its file."""
    from analysis.report import Settings, write

    return write(settings(Settings, runs, options))


def settings(cls: type[S], runs: Sequence[Folder], options: dict[str, Any]) -> S:
    """Return a command's settings; raise :class:`ConfigError` for an option that it does not have."""
    known = {field.name: field.default for field in fields(cls) if field.name != "runs"}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in known:
            raise ConfigError(key, value, f"no such option; {nearest(key, known)}")
    given = {key: _several(value) if isinstance(known[key], tuple) else value for key, value in options.items()}
    return cls(runs=tuple(map(str, runs)), **given)  # type: ignore[call-arg]


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
