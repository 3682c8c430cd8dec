"""``python -m analysis.figures``: arguments first, matplotlib afterwards."""

from __future__ import annotations

import sys

from analysis.drawing.settings import USAGE, parse
from harness.errors import HarnessError


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    arguments = sys.argv[1:]
    if not arguments or {"--help", "-h"} & set(arguments):
        print(USAGE, end="")
        sys.exit(0 if arguments else 1)
    try:
        settings = parse(arguments)
        from analysis.drawing.command import draw_all

        written = draw_all(settings)
    except HarnessError as error:
        print(f"figures: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("figures: interrupted; figures that were written stay", file=sys.stderr)
        sys.exit(130)
    sys.exit(0 if written else 1)


if __name__ == "__main__":
    main()
