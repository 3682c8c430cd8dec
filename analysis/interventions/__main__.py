"""``python -m analysis.interventions``: arguments first, torch afterwards."""

from __future__ import annotations

from analysis import program
from analysis.interventions.settings import USAGE, parse


def work(arguments: list[str]) -> bool:
    """Intervene, or say why there is nothing to scale."""
    settings = parse(arguments)
    from analysis.interventions.command import intervene

    reason = intervene(settings)
    if reason is not None:
        print(reason)
    return True


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    program.run("interventions", USAGE, work, "the same command goes on where it was")


if __name__ == "__main__":
    main()
