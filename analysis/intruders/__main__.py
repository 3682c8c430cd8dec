"""``python -m analysis.intruders``: arguments first, torch afterwards."""

from __future__ import annotations

import sys

from analysis.intruders.settings import USAGE, Settings, parse
from harness.errors import HarnessError


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    arguments = sys.argv[1:]
    if not arguments or {"--help", "-h"} & set(arguments):
        print(USAGE, end="")
        sys.exit(0 if arguments else 1)
    try:
        failed = run(parse(arguments))
    except HarnessError as error:
        print(f"intruders: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("intruders: interrupted; tables that were complete stay", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if failed else 0)


def run(settings: Settings) -> bool:
    """Measure everything the settings name, one model at a time; return whether any failed."""
    from analysis.intruders.command import measure_job
    from analysis.intruders.sources import jobs

    failed = False
    for job in jobs(settings):
        if job.reason is not None:
            print(f"{job.name}: {'' if job.failed else 'n/a: '}{job.reason}")
            failed |= job.failed
        else:
            measure_job(job, settings)
    return failed


if __name__ == "__main__":
    main()
