"""``python -m analysis.report runs/ --out report/``: one page to explore, that opens by double-click."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from analysis import flags
from harness.errors import HarnessError
from harness.storage.privacy import expanded

FILE = "index.html"


class Parser(flags.Parser):
    """Says what is wrong in one line."""

    command = "report"


def parse(given: list[str]) -> Namespace:
    """Return the arguments."""
    parser = Parser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("runs", type=expanded, nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--out", type=expanded, default=Path("report"), help=f"folder for {FILE} (report)")
    parser.add_argument("--title", default="Fine-tuning runs", help="the page's heading (Fine-tuning runs)")
    parser.add_argument("--against", metavar="CONFIGURATION", help="compare with this one only, as its row is named")
    parser.add_argument(
        "--advise", metavar="CONSTRAINTS", default="", help="as 'gpu=24GiB forget<=.1': see analysis.advise"
    )
    return parser.parse_args(given)


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    arguments = parse(sys.argv[1:])
    try:
        write(arguments)
    except HarnessError as error:
        flags.fail("report", str(error))
    except KeyboardInterrupt:
        flags.fail("report", "interrupted; a page that was there before is unchanged")


def write(arguments: Namespace) -> None:
    """Read the runs, write the page, print where it is and what could not be read."""
    from analysis.advise import settings
    from analysis.records import read_runs
    from analysis.report.page import page
    from harness.storage.files import write_bytes

    asked = settings.asked(settings.parse(arguments.advise.split()))
    runs = read_runs(*arguments.runs)
    target = arguments.out / FILE
    if arguments.out.exists() and not arguments.out.is_dir():
        raise HarnessError(f"--out={arguments.out}: is a file; give a folder")
    text = page(runs, arguments.title, arguments.against, asked=asked).encode()
    write_bytes(target, text)
    for line in runs.problems:
        print(f"report: {line}", file=sys.stderr)
    print(f"{target}: {_counted(len(runs.table))}, {len(text) / 1e6:.1f} MB; open it in a browser")


def _counted(runs: int) -> str:
    return f"{runs} run{'' if runs == 1 else 's'}"


if __name__ == "__main__":
    main()
