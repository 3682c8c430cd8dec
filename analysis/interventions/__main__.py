"""``python -m analysis.interventions``: arguments first, torch afterwards."""

from __future__ import annotations

import sys

from analysis.interventions.settings import USAGE, parse
from harness.errors import HarnessError


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    arguments = sys.argv[1:]
    if not arguments or {"--help", "-h"} & set(arguments):
        print(USAGE, end="")
        sys.exit(0 if arguments else 1)
    try:
        settings = parse(arguments)
        from analysis.interventions.command import intervene

        reason = intervene(settings)
    except HarnessError as error:
        print(f"interventions: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interventions: interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    if reason is not None:
        print(reason)


if __name__ == "__main__":
    main()
