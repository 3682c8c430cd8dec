"""``python -m analysis.peft_suite import|export``: other people's numbers beside one's own, and the other way."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from analysis.flags import Parser, fail
from harness.errors import HarnessError, nearest
from harness.storage.privacy import expanded

NAME, COMMANDS = "peft_suite", ("import", "export")


class Arguments(Parser):
    """The command's flags."""

    command = NAME


def main() -> None:
    """Run the command line."""
    arguments = parse(sys.argv[1:])
    try:
        (_import if arguments.command == "import" else _export)(arguments)
    except HarnessError as error:
        fail(NAME, str(error))


def parse(given: list[str]) -> Namespace:
    """Return the arguments; a command that there is none of is named with the nearest."""
    parser = Arguments(prog="python -m analysis.peft_suite", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="import|export", parser_class=Arguments)
    taken = commands.add_parser("import", help="read result files of PEFT's method comparison")
    taken.add_argument("results", type=expanded, help="folder of results/*.json, or one file")
    place = "your runs; copies go to its foreign/ (runs)"
    taken.add_argument("--runs", type=expanded, default=Path("runs"), help=place)
    written = commands.add_parser("export", help="write your runs that are done in PEFT's schema")
    written.add_argument("runs", type=expanded, nargs="+", help="run folders, or folders that hold some")
    written.add_argument("--out", type=expanded, required=True, help="folder for the result files")
    first = next((word for word in given if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        parser.error(f"{first}: no such command; {nearest(first, COMMANDS)}")
    return parser.parse_args(given)


def _import(arguments: Namespace) -> None:
    from analysis.peft_suite.importing import import_results
    from analysis.peft_suite.reading import row

    done = import_results(arguments.results, arguments.runs)
    for folder in done.new:
        cells = row(folder)
        print(f"{cells.get('label')}: {cells.get('metric')} {_short(cells.get('score'))}, {cells['status']}: {folder}")
    print(f"{len(done.new)} imported, {len(done.known)} there already, {len(done.problems)} not readable")
    print(MEANING)
    _complain(done.problems)


def _export(arguments: Namespace) -> None:
    from analysis.peft_suite.exporting import export_runs

    written, problems = export_runs(arguments.runs, arguments.out)
    for path in written:
        print(path)
    print(f"{len(written)} exported, {len(problems)} left out")
    _complain(problems)


def _complain(problems: list[str]) -> None:
    for line in problems:
        print(f"peft_suite: {line}", file=sys.stderr)


def _short(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


MEANING = """\
Rows from elsewhere are marked foreign and never paired with yours: their items are not known. Train seconds are the
sum of their intervals' "train time" (their train_time contains the test); peak memory is their accelerator_memory_max,
reserved, over the whole process; their forgetting is defined otherwise than ours and has another name.\
"""

if __name__ == "__main__":
    main()
