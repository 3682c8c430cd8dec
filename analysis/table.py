"""``python -m analysis.table``: run folders → a table over seeds."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.command import Command, require, require_choice
from analysis.compare import OUTCOMES, Choice

USAGE = """\
Turn folders of runs into a table over seeds, and say what may be said of it.

  python -m analysis.table runs/                                  every run, a row a configuration and learning rate
  python -m analysis.table runs/ where=task=trec,rank=8           some runs; a value may be a choice: method=lora|full
  python -m analysis.table runs/ group=method,rank                rows by any column or configuration key
  python -m analysis.table runs/ rates=chosen compare=true        each at its best rate, and every two compared

  where     column=value or configuration.key=value, separated by commas (default: every run)
  group     columns or configuration keys (default: the configuration, and the learning rate)
  rates     all, or chosen: each configuration at the learning rate with the best validation score (default: all)
  compare   true: paired comparisons at chosen rates, in each outcome one family (default: false)
  outcomes  what is compared: score, forgetting, gain, parameters, seconds, memory, gain_per_million_parameters,
            gain_per_minute, gain_per_gib, or a probe's metric as lm_loss:loss (default: score,forgetting)
  against   compare with this configuration only, such as "lora r8": a smaller family (default: every pair)
  margin    the smallest difference of interest: smaller ones are equivalent (default: 0.02)
  pareto    true: which configurations are Pareto-optimal in learning and forgetting, how surely, and what each
            method forgets at equal learning (default: false)
  learning  the score at which forgetting is compared (default: the highest that every method reaches)
  across    true: mean ranks, interquartile means and probabilities of improvement over all models and tasks that
            share configurations; false: never (default: true)
  out       folder for the tables as CSV, Parquet, Markdown and LaTeX (default: tables)
"""
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
