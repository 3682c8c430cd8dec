"""``python -m analysis.table``: arguments first, pandas afterwards."""

from __future__ import annotations

from analysis import program
from analysis.table.settings import USAGE, parse


def work(arguments: list[str]) -> bool:
    """Print and write the tables."""
    settings = parse(arguments)
    from analysis.table.command import run

    run(settings)
    return True


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    program.run("table", USAGE, work, "files that were complete stay")


if __name__ == "__main__":
    main()
