"""``python -m analysis.table``: arguments first, pandas afterwards."""

from __future__ import annotations

import sys

from analysis.table.settings import USAGE, parse
from harness.errors import HarnessError


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    arguments = sys.argv[1:]
    if not arguments or {"--help", "-h"} & set(arguments):
        print(USAGE, end="")
        sys.exit(0 if arguments else 1)
    try:
        settings = parse(arguments)
        from analysis.table.command import run

        run(settings)
    except HarnessError as error:
        print(f"table: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("table: interrupted; files that were complete stay", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
