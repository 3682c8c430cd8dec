"""What would settle what is open: exact command lines, made from the records and read by Hydra's own parser."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from analysis.effects.comparisons import Comparison
from analysis.effects.outcomes import FORGETTING
from analysis.effects.verdicts import SEEDS
from analysis.views.advise.constraints import Amount, Subject
from analysis.views.report.reproduce import FAILURES, Reproducer

FEW = 5
"""Seeds that a method which was not tried is trained with: fewer than that decide little."""


LISTED = 8
"""Values that a command lists before it gives their range."""


@dataclass(frozen=True)
class Experiment:
    """A question and how to answer it."""

    question: str
    needs: str
    """How many seeds and items, or why no number that anybody trains would do."""
    commands: tuple[str, ...] = ()


def between(one: Comparison, sides: Iterable[Subject], commands: Commands) -> Experiment:
    """Return what decides between two configurations that are undecided."""
    question = f"is {one.first} or {one.second} better by {one.margin:.2g} or more, or neither"
    said = str(one.needed).replace("n needed: ", "").replace("n needed ≈", "about")
    known = f"these runs show that they differ by less than {max(abs(one.low), abs(one.high)):.2g}"
    if one.needed.seeds > SEEDS[-1] or not math.isfinite(one.needed.items):
        return Experiment(question, f"{said}; {known}")
    seeds, items = math.ceil(one.needed.seeds), math.ceil(one.needed.items)
    items = 0 if items <= one.items else items
    there = ", if the data has as many" if items else ""
    return Experiment(question, f"{said}{there}; {known}", tuple(commands.more(side, seeds, items) for side in sides))


def below(subject: Subject, found: Amount, most: float, commands: Commands) -> Experiment:
    """Return what shows whether a configuration forgets less than a limit that its interval crosses.

    An interval's half-width falls as 1/√seeds while the seeds' spread makes it, which is taken to be so.
    """
    question = f"does {subject.label} forget less than {most:g}"
    now = subject.block.effects(FORGETTING)[subject.label].estimate.seeds
    share = (found.high - found.value) / max(most - found.value, 1e-12)
    wanted = max(now + 1, 2, math.ceil(now * share**2))
    if wanted > SEEDS[-1]:
        return Experiment(question, f"more than {SEEDS[-1]:.0f} seeds: its estimate lies at the limit")
    return Experiment(question, f"about {wanted} seeds", (commands.more(subject, wanted, 0),))


class Commands:
    """Makes commands; composing presets takes Hydra a third of a second, so they are kept while this is open."""

    def __init__(self) -> None:
        self._reproducer = Reproducer()

    def __enter__(self) -> Commands:
        self._reproducer.__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:
        self._reproducer.__exit__(*ended)

    def more(self, subject: Subject, seeds: int, items: int) -> str:
        """Return the command that trains a configuration until it has so many seeds, those that are done included.

        With more items those are trained anew too: another test split is another block.
        """
        found = self._overrides(subject.record)
        if items:
            found = [*_without(found, "task.max_test"), f"task.max_test={items}"]
        done = sorted({int(x) for x in subject.block.configurations[subject.label]["seed"].dropna()})
        fresh = (seed for seed in range(seeds + len(done)) if seed not in done)
        wanted = done + [seed for seed, _ in zip(fresh, range(max(0, seeds - len(done))), strict=False)]
        return _line([*_without(found, "seed"), *_searching(subject.record), _swept("seed", wanted)], subject.record)

    def others(self, subject: Subject, methods: list[str]) -> str:
        """Return the command that trains methods beside a configuration, each at a searched rate."""
        found = [one for one in self._overrides(subject.record) if not one.lstrip("+~").startswith("method.")]
        found = _without(found, "seed", "method", "train.learning_rate")
        swept = [_swept("seed", range(FEW)), f"method={','.join(methods)}", "search=learning_rate"]
        return _line([*found, *swept], subject.record)

    def _overrides(self, record: dict[str, Any]) -> list[str]:
        """Return what composes to a record; settings that it is too old to have keep their defaults."""
        try:
            found = self._reproducer.overrides(record)
            return [one for one in found if not one.startswith(("~model.", "~train.", "~method."))]
        except FAILURES as error:
            return [f"# {' '.join(str(error).split())}"]


def _without(overrides: list[str], *keys: str) -> list[str]:
    return [one for one in overrides if one.lstrip("+~").partition("=")[0] not in keys]


def _searching(record: dict[str, Any]) -> list[str]:
    """Return the overrides of the search that found the record's rate, which are then not trained again."""
    search = record.get("search") or {}
    if search.get("started_from") is None:
        return []
    return ["search=learning_rate", f"search.max_runs={search['max_runs']}", f"search.seed={search['seed']}"]


def _swept(key: str, values: Iterable[Any]) -> str:
    """Return a swept key; many whole numbers in a row as Hydra's range."""
    every = list(values)
    if len(every) > LISTED and every == list(range(every[0], every[0] + len(every))):
        return f"{key}=range({every[0]},{every[0] + len(every)})"
    return f"{key}={','.join(map(str, every))}"


def _line(overrides: list[str], record: dict[str, Any]) -> str:
    """Return a command line quoted for a POSIX shell; a searched rate is started from where its search was."""
    broken = next((one for one in overrides if one.startswith("# ")), None)
    if broken is not None:
        return f"{broken} (this record's configuration does not compose here)"
    search = record.get("search") or {}
    if "search=learning_rate" in overrides and search.get("started_from") is not None:
        started = f"train.learning_rate={search['started_from']:g}"
        kept = any(one.startswith("train.learning_rate=") for one in overrides)
        overrides = [*_without(overrides, "train.learning_rate"), *([started] if kept else [])]
    folder = str(record["config"].get("output_dir") or "runs")
    return " ".join(["python -m harness.run -m", *map(_shell, overrides), shlex.quote(f"output_dir={folder}")])


def _shell(word: str) -> str:
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return word if re.fullmatch(r"[\w.,=/+~-]+", word) else shlex.quote(word)
