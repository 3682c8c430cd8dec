"""``python -m analysis.compare``: run folders → which configuration is better, in what, and how surely."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.command import Command, require, require_runs

CHOICES = """\
  outcomes  what is compared: score, forgetting, gain, parameters, seconds, memory, gain_per_million_parameters,
            gain_per_minute, gain_per_gib, or a probe's metric as lm_loss:loss (default: score,forgetting); all
            comparisons of one outcome are one family
  against   compare with this configuration only, such as "lora r8": a smaller family (default: every pair)
  margin    the smallest difference of interest: smaller ones are equivalent (default: 0.02)
  pareto    true: which configurations are Pareto-optimal in learning and forgetting, how surely, and what each
            method forgets at equal learning (default: false)
  learning  the score at which forgetting is compared (default: the highest that every method reaches)
  across    true: mean ranks, interquartile means and probabilities of improvement over all models and tasks that
            share configurations; false: never (default: true)
  out       folder for the tables as CSV, Parquet, Markdown and LaTeX (default: tables)
"""
USAGE = f"""\
Say which configurations are better, equivalent or undecided in each outcome, each at its chosen learning rate.

  python -m analysis.compare runs/                                      every two, in score and forgetting
  python -m analysis.compare runs/ against="lora r8" margin=0.01        each with one, differences below 1 % the same
  python -m analysis.compare runs/ outcomes=seconds,lm_loss:loss        in what it costs and in a probe
  python -m analysis.compare runs/ pareto=true                          learning against forgetting too

  where     column=value or configuration.key=value, separated by commas (default: every run)
{CHOICES}"""
OUTCOMES = ("score", "forgetting")


@dataclass(frozen=True)
class Choice:
    """Which runs are compared, in what, and where the tables go."""

    runs: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = OUTCOMES
    against: str | None = None
    margin: float = 0.02
    pareto: bool = False
    learning: float | None = None
    across: bool = True
    out: str = "tables"

    def __post_init__(self) -> None:
        require_runs(self.runs)
        for condition in self.where:
            require("=" in condition, "where", condition, "must be column=value")
        require(self.margin > 0, "margin", self.margin, "must be above 0")
        require(self.learning is None or self.pareto, "learning", self.learning, "needs pareto=true")


def work(settings: Choice) -> bool:
    """Print and write the comparisons."""
    from analysis.views.table.command import compare_all

    compare_all(settings)
    return True


COMMAND = Command("compare", USAGE, Choice, work, "files that were complete stay")

if __name__ == "__main__":
    COMMAND.main()
