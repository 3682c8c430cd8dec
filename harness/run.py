"""Train one run, or a sweep with ``-m``: the command line ``python -m harness.run``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import hydra
from omegaconf import DictConfig

from harness.compose import (
    HydraException,
    OmegaConfBaseException,
    conf_folder,
    explain,
    register,
    to_run_config,
)
from harness.config import RunConfig
from harness.errors import HarnessError
from harness.help import text
from harness.storage.record import Status
from harness.sweep import report_single, run_single, to_do

register()


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def main(composed: DictConfig) -> str | None:
    """Train the composed run; the sweeper has already checked and prepared the runs of a sweep."""
    if composed.sweep.prepared:
        status = _execute(to_run_config(composed))
        return None if status is None else status.value
    try:
        if launched():
            _as_member(to_run_config(composed))
        else:
            run_single(to_run_config(composed), _execute)
    except HarnessError as error:
        fail(str(error))  # here, because Hydra would add a line of its own
    return None


def _as_member(config: RunConfig) -> None:
    """Do one process's part of a run that torchrun started; the first plans, prepares and reports."""
    from harness.distributed import group
    from harness.distributed.membership import agreed, joined

    with joined(config.train.use_cpu):
        config = agreed(config)
        run = group.by_first(lambda: to_do(config))
        if run is not None:
            _execute(run)
        if group.first():
            report_single(config)


def launched() -> bool:
    """Return whether torchrun started this process, alone or as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def _execute(config: RunConfig) -> Status | None:
    from harness.execution.execute import execute  # torch and transformers load here, after the configuration is valid

    return execute(config)


def fail(line: str) -> NoReturn:
    """Print what is wrong in one line and exit with code 1."""
    if os.environ.get("RANK", "0") == "0":  # of several processes one says it
        print(f"harness: {line}", file=sys.stderr)
    sys.exit(1)


def train(arguments: Sequence[str]) -> None:
    """Train what the arguments of a command line say, and print what it did.

    Raises :class:`HarnessError`, Hydra's errors, or ``SystemExit`` with a code above 0 where a run of a sweep failed.
    """
    before = sys.argv
    # Hydra prints its own errors over many lines unless told to raise them, and reads the process's arguments.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [before[0], *arguments]
    try:
        main()
    finally:
        sys.argv = before


def cli() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(text(conf_folder()))
        return
    try:
        if launched() and {"-m", "--multirun"} & set(sys.argv[1:]):
            fail("torchrun: starts the processes of one run; a sweep starts those of its runs by processes=2")
        train(sys.argv[1:])
    except (HarnessError, HydraException, OmegaConfBaseException) as error:
        overrides = [argument for argument in sys.argv[1:] if "=" in argument]
        fail(str(error) if isinstance(error, HarnessError) else explain(error, overrides))
    except KeyboardInterrupt:
        print("harness: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    # As __main__ these functions could not be found again by the worker processes of a launcher.
    from harness.run import cli as imported_cli

    imported_cli()
