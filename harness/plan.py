"""The command line of the planner: ``python -m harness.plan`` says what a training takes, and trains nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.compose import HydraException, OmegaConfBaseException, conf_folder, explain, register, to_run_config
from harness.config import RunConfig
from harness.errors import ConfigError, HarnessError, NotApplicable
from harness.identity import digest, plain
from harness.run import fail

if TYPE_CHECKING:
    from harness.planning.cards import Card
    from harness.planning.table import Row

USAGE = """\
Say what a training takes of a GPU's memory, without a GPU, without weights and without data.

  python -m harness.plan model=llama3_2_3b method=lora rank=8 gpu=24GiB
  python -m harness.plan -m model=llama3_2_3b method=full,lora,qlora rank=8,64 gpu=24GiB
  python -m harness.plan -m model=llama2_7b,llama2_70b method=qlora gpu=a100_80 batch=max
  python -m harness.plan model=custom model.id=<hub id> method=lora out=plan.json

gpu=    the card's memory (24GiB, 80GB) or its name (l40s, a100_80, h100, ...)
batch=  max finds the largest batch that fits; else train.per_device_train_batch_size counts
out=    writes the rows as JSON
--config-dir <folder>  models, tasks and experiments of one's own, as for harness.run
All other keys are those of harness.run; task.max_length is the length of every item."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    overrides: list[str]
    gpu: str | None = None
    batch: str | None = None
    out: str | None = None
    config_dir: str | None = None
    """A folder of configurations of one's own, searched beside the project's."""


def asked(arguments: Sequence[str]) -> Asked:
    """Take the planner's own keys out of the command line; the rest is Hydra's."""
    own: dict[str, str] = {}
    rest = []
    words = iter(arguments)
    for argument in words:
        key, _, value = argument.partition("=")
        if key in ("gpu", "batch", "out"):
            own[key] = value
        elif key in ("--config-dir", "-cd"):
            own["config_dir"] = value or next(words, "")
        elif argument not in ("-m", "--multirun"):
            rest.append(argument)
    if own.get("batch") not in (None, "max"):
        raise ConfigError("batch", own["batch"], "must be max; a size is train.per_device_train_batch_size=<size>")
    folder = own.get("config_dir")
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError("--config-dir", folder, "there is no such folder")
    return Asked(rest, **own)


def configurations(overrides: list[str], config_dir: str | None = None) -> Iterator[tuple[list[str], RunConfig]]:
    """Yield the distinct configurations of a sweep with the overrides of each, checked."""
    from hydra import compose, initialize_config_dir
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    register()
    own = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        jobs = BasicSweeper.split_arguments(parser.parse_overrides(overrides), None)
        seen = set()
        for job in jobs[0]:
            config = to_run_config(compose("config", overrides=[*job, *own], return_hydra_config=True))
            key = digest([plain(part) for part in (config.model, config.task, config.method, config.train)])
            if (config.method.name, key) not in seen:
                seen.add((config.method.name, key))
                yield list(job), config


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return for each configuration the overrides that not all of them share; for a single one all."""
    common = set.intersection(*(set(job) for job in jobs)) if len(jobs) > 1 else set()
    return [" ".join(override for override in job if override not in common) or "defaults" for job in jobs]


def row(label: str, job: Sequence[str], config: RunConfig, card: Card | None, largest: bool) -> Row:
    """Plan one configuration; what cannot be planned says why in its row."""
    from harness.planning.plan import Planner
    from harness.planning.table import Row

    try:
        config.method.preflight()
        planner = Planner(config, card)
        return Row(label, job, planner.largest() if largest else planner.plan())
    except NotApplicable as error:
        return Row(label, job, None, f"not applicable: {error}")
    except HarnessError as error:
        return Row(label, job, None, str(error))


def main(arguments: Sequence[str]) -> int:
    """Print the plans of all configurations; return 1 where one could not be planned."""
    from harness.planning.cards import card as card_of

    given = asked(arguments)
    card = card_of(given.gpu) if given.gpu is not None else None
    if given.batch == "max" and card is None:
        raise ConfigError("batch", "max", "needs the card's memory: gpu=24GiB or a name such as gpu=l40s")
    found = list(configurations(given.overrides, given.config_dir))
    from harness.planning.table import text, write  # torch loads here, after the configurations are valid

    rows = plan_all(found, card, given.batch == "max")
    if rows:
        print(text(rows, card))
    if len(rows) < len(found):
        print(f"harness: interrupted with {len(rows)} of {len(found)} configurations planned", file=sys.stderr)
        return 130
    if given.out is not None:
        write(rows, card, Path(given.out))
    return int(any(one.problem and not one.problem.startswith("not applicable") for one in rows))


def plan_all(found: Sequence[tuple[Sequence[str], RunConfig]], card: Card | None, largest: bool) -> list[Row]:
    """Plan one configuration after the other; where that is interrupted, return those before."""
    names, rows = labels([job for job, _ in found]), list["Row"]()
    try:
        for name, (job, config) in zip(names, found, strict=True):
            rows.append(row(name, job, config, card, largest))
    except KeyboardInterrupt:
        pass
    return rows


def cli() -> None:
    """Run the command line; what a user can mend is one line and exit code 1."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(USAGE)
        return
    try:
        sys.exit(main(sys.argv[1:]))
    except (HarnessError, HydraException, OmegaConfBaseException) as error:
        fail(str(error) if isinstance(error, HarnessError) else explain(error, sys.argv[1:]))


if __name__ == "__main__":
    cli()
