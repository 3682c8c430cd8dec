"""``python -m analysis.report``: one page to explore, that opens by double-click."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from analysis.command import Command, require, require_runs
from harness.storage.privacy import expanded

FILE = "index.html"
USAGE = """\
Write one self-contained page of a folder of runs: the answer, rows over seeds, comparisons, charts, single runs.

  python -m analysis.report runs/                            report/index.html
  python -m analysis.report runs/ out=page title="TREC"      another folder and heading
  python -m analysis.report runs/ against="lora r8"          compared with this configuration only

  out      folder for index.html (default: report)
  title    the page's heading (default: Fine-tuning runs)
  against  compare with this configuration only, as its row is named (default: every pair)
  advise   constraints of the advice, as "gpu=24GiB forget<=.1": see analysis.advise (default: none)
"""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    runs: tuple[str, ...] = ()
    out: str = "report"
    title: str = "Fine-tuning runs"
    against: str | None = None
    advise: str = ""

    def __post_init__(self) -> None:
        require_runs(self.runs)
        out = expanded(self.out)
        require(not out.exists() or out.is_dir(), "out", self.out, "is a file; give a folder")


def write(settings: Settings) -> Path:
    """Read the runs, write the page, print where it is and what could not be read; return its file."""
    from analysis import advise
    from analysis.records import read_runs
    from analysis.views.report.page import page
    from harness.storage.files import write_bytes

    asked = advise.asked(advise.COMMAND.parse(settings.advise.split()))
    runs = read_runs(*settings.runs)
    target = expanded(settings.out) / FILE
    text = page(runs, settings.title, settings.against, asked=asked).encode()
    write_bytes(target, text)
    for line in runs.problems:
        print(f"report: {line}", file=sys.stderr)
    counted = f"{len(runs.table)} run{'' if len(runs.table) == 1 else 's'}"
    print(f"{target}: {counted}, {len(text) / 1e6:.1f} MB; open it in a browser")
    return target


def work(settings: Settings) -> bool:
    """Write the page."""
    return write(settings).is_file()


COMMAND = Command("report", USAGE, Settings, work, "a page that was there before is unchanged")

if __name__ == "__main__":
    COMMAND.main()
