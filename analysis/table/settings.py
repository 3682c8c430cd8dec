"""The command line of ``python -m analysis.table``: checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.arguments import read, require, require_choice
from harness.storage.privacy import expanded

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
class Settings:
    """What the command line asks for."""

    runs: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    rates: str = "all"
    compare: bool = False
    outcomes: tuple[str, ...] = ("score", "forgetting")
    against: str | None = None
    margin: float = 0.02
    pareto: bool = False
    learning: float | None = None
    across: bool = True
    out: str = "tables"

    def __post_init__(self) -> None:
        require(bool(self.runs), "runs", "", "give one or more folders of runs; --help shows all")
        require_choice("rates", self.rates, RATES)
        for run in self.runs:
            require(expanded(run).is_dir(), "runs", run, "there is no such folder")
        for condition in self.where:
            require("=" in condition, "where", condition, "must be column=value")
        require(self.against is None or self.compare, "against", self.against, "needs compare=true")
        require(self.margin > 0, "margin", self.margin, "must be above 0")
        require(self.learning is None or self.pareto, "learning", self.learning, "needs pareto=true")
        require(not (self.group and self.rates == "chosen"), "group", ",".join(self.group), "needs rates=all")


def parse(arguments: list[str]) -> Settings:
    """Return the settings of ``key=value`` arguments and folders; ``--out tables`` is ``out=tables``."""
    runs, given = read(_joined(arguments), Settings, rest_is="runs")
    return Settings(runs=tuple(runs), **given)


def _joined(arguments: list[str]) -> list[str]:
    joined: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            joined.append(f"{name}={value if equals else next(waiting, '')}")
        else:
            joined.append(argument)
    return joined
