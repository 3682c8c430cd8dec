"""The command line of ``python -m analysis.figures``: checked before pandas and Altair are imported."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.command import Command, require, require_runs
from harness.errors import nearest

FORMATS = ("png", "pdf", "svg")
SIZES = ("", "column", "page")
USAGE = """\
Draw what a folder of runs shows, one file a figure, model and task.

  python -m analysis.figures runs/ out=figures/              every figure that the runs have data for
  python -m analysis.figures runs/ only=pareto,cost          some of them
  python -m analysis.figures runs/ where=method=lora         of some of the runs

  out       folder for the figures (default: figures)
  where     column=value or configuration.key=value, separated by commas; a value may be a choice: method=lora|full
  only      names of figures, separated by commas (default: all)
  formats   of png, pdf and svg, separated by commas (default: all three)
  size      column (3.3 inches) or page (6.9 inches, both columns of a paper); by default what suits a figure

Beside each figure stand its data as CSV and its Vega-Lite specification as JSON, from which any tool of Vega draws it.

A figure whose data no run has is skipped, with a line that says what to run.
"""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    runs: tuple[str, ...] = ()
    out: str = "figures"
    where: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    formats: tuple[str, ...] = FORMATS
    size: str = ""

    def __post_init__(self) -> None:
        require_runs(self.runs)
        for condition in self.where:
            require("=" in condition, "where", condition, "must be column=value")
        for kind in self.formats:
            require(kind in FORMATS, "formats", kind, f"no such format; {nearest(kind, FORMATS)}")
        require(self.size in SIZES, "size", self.size, "must be column or page")


def work(settings: Settings) -> bool:
    """Draw; return whether there was anything to draw."""
    from analysis.views.drawing.command import draw_all

    return bool(draw_all(settings))


COMMAND = Command("figures", USAGE, Settings, work, "figures that were written stay")

if __name__ == "__main__":
    COMMAND.main()
