"""``python -m analysis.wandb_results runs/``: add what the analysis found to each run in W&B, once."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from analysis.flags import Parser, fail
from harness.errors import HarnessError
from harness.storage.privacy import expanded

NAME = "wandb_results"


class Arguments(Parser):
    """The command's flags."""

    command = NAME


def parse(given: list[str]) -> Namespace:
    """Return the arguments."""
    parser = Arguments(prog="python -m analysis.wandb_results", description=__doc__)
    parser.add_argument("runs", type=expanded, nargs="+", help="run folders, or folders that hold some")
    return parser.parse_args(given)


def main() -> None:
    """Run the command line; runs that cannot be added to are a line each, and exit code 1."""
    arguments = parse(sys.argv[1:])
    try:
        problems = add(arguments.runs)
    except HarnessError as error:
        fail(NAME, str(error))
    except KeyboardInterrupt:
        print("wandb_results: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if problems else 0)


def add(paths: list[Path]) -> list[str]:
    """Add to every run that is done and say so; return the lines of those that could not be."""
    from analysis.records import read_runs
    from analysis.wandb_results.sending import add_findings
    from analysis.wandb_results.verdicts import verdicts

    runs = read_runs(*paths)
    problems, done = list(runs.problems), runs.done()
    compared = verdicts(runs.table)
    for _, run in done[~done["foreign"]].iterrows():
        try:
            print(add_findings(run, compared.get(run["id"])))
        except HarnessError as error:
            problems.append(str(error))
    for line in problems:
        print(f"wandb_results: {line}", file=sys.stderr)
    return problems


if __name__ == "__main__":
    main()
