"""The command line of ``python -m analysis.advise``: checked before anything is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import TYPE_CHECKING

from analysis.command import Command, require
from harness.storage.privacy import expanded

if TYPE_CHECKING:
    from harness.planning.cards import Card

USAGE = """\
Say which methods satisfy what is asked for, which of them are equivalent, what each costs, and what is open.

  python -m analysis.advise runs/                                 no constraint
  python -m analysis.advise runs/ 'forget<=.1' 'train<=2h'        quoted: < is a shell's own; or forget=.1 train=2h
  python -m analysis.advise runs/ gpu=24GiB serve=adapter --json
  python -m analysis.advise model=llama3_2_3b gpu=24GiB           no runs: plans, and rules of thumb
  python -m analysis.advise capabilities=all                      what every method and PEFT tuner can do, tried here

  gpu           a card's memory (24GiB, 80GB) or its name (l40s, a100_80, ...): the training must fit into it
  forget        the most that may be forgotten, in the unit of the probe that the runs' forgetting is of
  train         the longest training: 90s, 30min, 2h
  serve         merged: as one plain model; adapter: several on one base, switched between
  data          the task, where the runs have several (without runs: its preset)
  model         the model, where the runs have several (without runs: its preset)
  margin        the smallest difference of interest: smaller ones are equivalent (default: 0.02)
  capabilities  methods: the matrix of all methods; all: of PEFT's other tuners too (two minutes, then kept)
  json          true, or --json: the answer as JSON
"""
CAPABILITIES = ("methods", "all")
SECONDS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400}
"""Unit → seconds; a plural's s is taken off before."""
AT_MOST = re.compile(r"(--)?(forget|train)<=(.*)", re.DOTALL)


class Serve(StrEnum):
    """How the trained model is to be used."""

    merged = auto()
    """As a plain model of the base's architecture."""
    adapter = auto()
    """Several adapters on one base, switched between."""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for, as text."""

    runs: tuple[str, ...] = ()
    gpu: str | None = None
    forget: str | None = None
    train: str | None = None
    serve: str | None = None
    data: str | None = None
    model: str | None = None
    margin: float = 0.02
    capabilities: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        for run in self.runs:
            require(expanded(run).is_dir(), "runs", run, "there is no such folder")
        require(self.margin > 0, "margin", self.margin, "must be above 0")
        allowed = "must be methods, or all for PEFT's other tuners too"
        require(self.capabilities in (None, *CAPABILITIES), "capabilities", self.capabilities, allowed)


@dataclass(frozen=True)
class Asked:
    """What must hold, and where."""

    gpu: Card | None = None
    forget: float | None = None
    """In the unit of the runs' forgetting; more is worse."""
    seconds: float | None = None
    """Of training."""
    serve: Serve | None = None
    data: str | None = None
    model: str | None = None
    margin: float = 0.02
    said: dict[str, str] = field(default_factory=dict)
    """Each constraint as it was given."""


class Advise(Command[Settings]):
    """Also takes ``forget<=.1``, which is ``forget=.1``, and ``--json``."""

    def parse(self, arguments: Sequence[str]) -> Settings:
        """Return the settings of folders and ``key=value`` arguments."""
        return super().parse([_plain(argument) for argument in arguments])


def _plain(argument: str) -> str:
    found = AT_MOST.fullmatch(argument)
    if found:
        return f"{found[2]}={found[3]}"
    return "json=true" if argument == "--json" else argument


def asked(settings: Settings) -> Asked:
    """Return the constraints, each read in its unit; raise :class:`ConfigError` in one line for one that cannot be."""
    from harness.planning.cards import card

    constraints = {"gpu": settings.gpu, "forget<": settings.forget, "train<": settings.train, "serve": settings.serve}
    return Asked(
        gpu=None if settings.gpu is None else card(settings.gpu),
        forget=None if settings.forget is None else _amount(settings.forget),
        seconds=None if settings.train is None else seconds(settings.train),
        serve=None if settings.serve is None else _serve(settings.serve),
        data=settings.data,
        model=settings.model,
        margin=settings.margin,
        said={key.rstrip("<"): f"{key}={value}" for key, value in constraints.items() if value is not None},
    )


def _amount(text: str) -> float:
    number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text.strip().lower())
    require(number is not None, "forget<", text, "must be a number in the unit of the runs' forgetting, such as .1")
    return float(text)


def seconds(text: str) -> float:
    """Return a duration such as ``2h``, ``30min`` or ``90s`` in seconds."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip().lower())
    require(found is not None, "train<", text, "must be a time such as 90s, 30min or 2h")
    assert found is not None
    number, unit = found[1], found[2]
    require(bool(unit), "train<", text, f"has no unit; write {number}s, {number}min or {number}h")
    per = SECONDS.get(unit) or SECONDS.get(unit.removesuffix("s"))
    require(per is not None, "train<", text, f"unknown unit {unit}; write {number}s, {number}min or {number}h")
    require(float(number) > 0, "train<", text, "must be above 0")
    assert per is not None
    return float(number) * per


def _serve(text: str) -> Serve:
    allowed = "must be merged (one plain model) or adapter (several on one base)"
    require(text in {one.value for one in Serve}, "serve", text, allowed)
    return Serve(text)


def work(settings: Settings) -> bool:
    """Print the advice."""
    from analysis.views.advise.command import run

    run(settings)
    return True


COMMAND = Advise("advise", USAGE, Settings, work, "nothing was written")

if __name__ == "__main__":
    COMMAND.main()
