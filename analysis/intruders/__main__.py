"""``python -m analysis.intruders``: arguments first, torch afterwards."""

from __future__ import annotations

from analysis import program
from analysis.intruders.settings import USAGE, Settings, parse


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


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    program.run("intruders", USAGE, lambda arguments: not run(parse(arguments)), "tables that were complete stay")


if __name__ == "__main__":
    main()
