"""What all command lines of ``key=value`` arguments do alike: usage, errors in one line, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from harness.errors import HarnessError


def run(name: str, usage: str, work: Callable[[list[str]], bool], interrupted: str) -> NoReturn:
    """Run a command's `work` on its arguments and exit: 0, 1 where it returns False or the user can mend it, 130.

    `interrupted` says after Ctrl-C what became of what was done. `work` imports what is heavy, so that usage and
    mistakes in arguments answer at once.
    """
    arguments = sys.argv[1:]
    if not arguments or {"--help", "-h"} & set(arguments):
        print(usage, end="")
        sys.exit(0 if arguments else 1)
    try:
        fine = work(arguments)
    except HarnessError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(130)
    sys.exit(0 if fine else 1)
