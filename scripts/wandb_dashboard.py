"""Save a W&B workspace and report over a project's runs; run it again and they are updated.

python scripts/wandb_dashboard.py entity/project                  needs a W&B login
python scripts/wandb_dashboard.py entity/project --runs runs/     panels for what these runs measured
python scripts/wandb_dashboard.py entity/project --out spec.json  no network: only the specification
"""

from __future__ import annotations

import re
import sys
from argparse import Namespace, RawDescriptionHelpFormatter

from analysis.flags import Parser, fail
from harness.errors import HarnessError
from harness.storage.files import write_json
from harness.storage.privacy import expanded

NAME = "wandb_dashboard"


class Arguments(Parser):
    """The command's flags."""

    command = NAME


def parse(given: list[str]) -> Namespace:
    parser = Arguments(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("place", metavar="entity/project", help="whose project, as in its address on W&B")
    parser.add_argument("--runs", type=expanded, nargs="+", help="show what these runs measured, not what any may have")
    parser.add_argument("--out", type=expanded, help="write the specification to this file and send nothing")
    arguments = parser.parse_args(given)
    if re.fullmatch(r"[^/\\#?%:\s]+/[^/\\#?%:]+", arguments.place) is None:
        parser.error(f"{arguments.place}: give entity/project, as in https://wandb.ai/entity/project")
    return arguments


def main() -> None:
    arguments = parse(sys.argv[1:])
    try:
        work(arguments)
    except (HarnessError, OSError) as error:
        fail(NAME, str(error))


def work(arguments: Namespace) -> None:
    from analysis.dashboard.build import specification
    from analysis.dashboard.names import everything, measured
    from analysis.dashboard.saving import save

    shown = everything()
    if arguments.runs:
        from analysis.records import read_runs

        shown = measured(read_runs(*arguments.runs).table)
    entity, _, project = arguments.place.partition("/")
    if arguments.out:
        write_json(arguments.out, specification(entity, project, shown))
        print(f"{arguments.out}: workspace and report as W&B would get them; nothing was sent")
        return
    for saved in save(entity, project, shown):
        print(f"{saved.what} {'created' if saved.new else 'updated'}: {saved.url}")


if __name__ == "__main__":
    main()
