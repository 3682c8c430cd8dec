"""``python -m analysis.table``: run folders → a table over seeds."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.command import Command, require, require_choice
from analysis.compare import CHOICES, OUTCOMES, Choice

USAGE = f"""\
Turn folders of runs into a table over seeds, and say what may be said of it.

  python -m analysis.table runs/                                  every run, a row a configuration and learning rate
  python -m analysis.table runs/ where=task=trec,rank=8           some runs; a value may be a choice: method=lora|full
  python -m analysis.table runs/ group=method,rank                rows by any column or configuration key
  python -m analysis.table runs/ rates=chosen compare=true        each at its best rate, and every two compared

  where     column=value or configuration.key=value, separated by commas (default: every run)
  group     columns or configuration keys (default: the configuration, and the learning rate)
  rates     all, or chosen: each configuration at the learning rate with the best validation score (default: all)
  compare   true: paired comparisons at chosen rates, in each outcome one family (default: false)
{CHOICES}"""
RATES = ("all", "chosen")


@dataclass(frozen=True)
class Settings(Choice):
    """What the command line asks for."""

    group: tuple[str, ...] = ()
    rates: str = "all"
    compare: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("rates", self.rates, RATES)
        require(self.against is None or self.compare, "against", self.against, "needs compare=true")
        asked = self.outcomes == OUTCOMES or self.compare
        require(asked, "outcomes", ",".join(self.outcomes), "needs compare=true")
        require(not (self.group and self.rates == "chosen"), "group", ",".join(self.group), "needs rates=all")


def work(settings: Settings) -> bool:
    """Print and write the tables."""
    from analysis.views.table.command import tabulate

    tabulate(settings)
    return True


COMMAND = Command("table", USAGE, Settings, work, "files that were complete stay")

if __name__ == "__main__":
    COMMAND.main()
