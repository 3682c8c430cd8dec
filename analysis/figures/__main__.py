"""``python -m analysis.figures``: arguments first, pandas and Altair afterwards."""

from __future__ import annotations

from analysis import program
from analysis.drawing.settings import USAGE, parse


def work(arguments: list[str]) -> bool:
    """Draw; return whether there was anything to draw."""
    settings = parse(arguments)
    from analysis.drawing.command import draw_all

    return bool(draw_all(settings))


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    program.run("figures", USAGE, work, "figures that were written stay")


if __name__ == "__main__":
    main()
