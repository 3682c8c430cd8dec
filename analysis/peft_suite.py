"""``python -m analysis.peft_suite``: other people's numbers beside one's own, and the other way."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.command import Command, require, require_runs
from harness.storage.privacy import expanded

USAGE = """\
Read result files of PEFT's method comparison beside one's own runs, or write one's own runs in its schema.

  python -m analysis.peft_suite results=peft/method_comparison/results runs/    copied to runs/foreign/
  python -m analysis.peft_suite runs/ out=results/                              one's own runs that are done

  results  a folder of result files (*.json), or one file, to read
  out      folder for the result files to write
"""
MEANING = """\
Rows from elsewhere are marked foreign and never paired with yours: their items are not known. Train seconds are the
sum of their intervals' "train time" (their train_time contains the test); peak memory is their accelerator_memory_max,
reserved, over the whole process; their forgetting is defined otherwise than ours and has another name.\
"""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    runs: tuple[str, ...] = ()
    results: str | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        old = next((word for word in self.runs if word in ("import", "export")), None)
        where = {"import": "results=<folder> runs/", "export": "runs/ out=<folder>"}.get(str(old))
        require(old is None, "runs", old, f"write {where}")
        one = (self.results is None) != (self.out is None)
        require(one, "results", self.results, "give either results= to read, or out= to write")
        if self.results is None:
            require_runs(self.runs)
        else:
            require(len(self.runs) <= 1, "runs", " ".join(self.runs), "give the one folder that results are copied to")
            require(expanded(self.results).exists(), "results", self.results, "there is no such file or folder")


def work(settings: Settings) -> bool:
    """Read or write result files."""
    if settings.results is not None:
        _import(settings.results, *settings.runs or ("runs",))
    else:
        _export(settings.runs, str(settings.out))
    return True


def _import(results: str, runs: str) -> None:
    from analysis.exchange.peft_suite.importing import import_results
    from analysis.exchange.peft_suite.reading import row

    done = import_results(expanded(results), expanded(runs))
    for folder in done.new:
        cells = row(folder)
        print(f"{cells.get('label')}: {cells.get('metric')} {_short(cells.get('score'))}, {cells['status']}: {folder}")
    print(f"{len(done.new)} imported, {len(done.known)} already there, {len(done.problems)} not readable")
    print(MEANING)
    _complain(done.problems)


def _export(runs: Sequence[str], out: str) -> None:
    from analysis.exchange.peft_suite.exporting import export_runs

    written, problems = export_runs([expanded(run) for run in runs], expanded(out))
    for path in written:
        print(path)
    print(f"{len(written)} exported, {len(problems)} left out")
    _complain(problems)


def _complain(problems: list[str]) -> None:
    for line in problems:
        print(f"peft_suite: {line}", file=sys.stderr)


def _short(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


COMMAND = Command("peft_suite", USAGE, Settings, work, "what was read or written stays")

if __name__ == "__main__":
    COMMAND.main()
