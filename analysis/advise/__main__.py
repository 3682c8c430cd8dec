"""``python -m analysis.advise``: arguments first, pandas and torch afterwards."""

from __future__ import annotations

from analysis import program
from analysis.advise.settings import USAGE, parse


def work(arguments: list[str]) -> bool:
    """Print the advice."""
    settings = parse(arguments)
    from analysis.advise.command import run

    run(settings)
    return True


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    program.run("advise", USAGE, work, "nothing was written")


if __name__ == "__main__":
    main()
