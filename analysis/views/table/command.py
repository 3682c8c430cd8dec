"""The command from folders to tables and verdicts."""

from __future__ import annotations

import math
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.compare import Choice
from analysis.effects.across import across
from analysis.effects.blocks import Effects, effects_of
from analysis.effects.comparisons import UNSEARCHED, Comparisons, compare
from analysis.effects.outcomes import FORGETTING, LEARNING, Outcome, Price, outcome_of
from analysis.effects.pareto import pareto
from analysis.records import read_runs
from analysis.table import Settings
from analysis.views.answer import answers
from analysis.views.table import filtering
from analysis.views.table.grouped import DEFAULT, grouped, with_choice
from analysis.views.table.writing import show, shown, shown_across, shown_comparisons, shown_pareto, write
from harness.storage.files import require_writable, write_bytes
from harness.storage.privacy import expanded
from harness.storage.record import Status

NOTHING = "nothing to compare: it takes two configurations of one model and task that are done"
WORDS = {FORGETTING.key: "forgetting, the change of a probe since before tuning"}


@dataclass(frozen=True)
class Tables:
    """What a command read, and the lines of what it could not use or compare."""

    table: pd.DataFrame
    effects: Effects
    problems: tuple[str, ...]
    out: Path


def tabulate(settings: Settings) -> None:
    """Read, filter, group; print and write the rows over seeds, and what is asked for of comparisons."""
    outcomes = _outcomes(settings)
    tables = _read(settings)
    keys = filtering.columns(settings.group, tables.table) or list(DEFAULT)
    problems = print_table(tables, keys, settings.rates)
    problems += _print_results(tables, settings, _made(tables, settings, outcomes if settings.compare else []))
    _end(tables, problems, fair=settings.compare or settings.rates == "chosen")


def compare_all(settings: Choice) -> dict[str, Comparisons]:
    """Read, filter, compare; print, write and return each outcome's comparisons."""
    outcomes = _outcomes(settings)
    tables = _read(settings)
    made = _made(tables, settings, outcomes)
    _end(tables, _print_results(tables, settings, made), fair=True)
    return made


def _made(tables: Tables, settings: Choice, outcomes: list[Outcome | Price]) -> dict[str, Comparisons]:
    return {one.key: compare(tables.effects, settings.against, settings.margin, one) for one in outcomes}


def _outcomes(settings: Choice) -> list[Outcome | Price]:
    """Return what is compared; raise :class:`ConfigError` for a name that there is none of, before any run is read."""
    return [outcome_of(name) for name in settings.outcomes]


def _read(settings: Choice) -> Tables:
    runs = read_runs(*settings.runs)
    table = filtering.chosen(runs.table, settings.where)
    out = expanded(settings.out)
    require_writable(out, 2**20)
    return Tables(table, effects_of(table), tuple(runs.problems), out)


def _print_results(tables: Tables, settings: Choice, made: dict[str, Comparisons]) -> tuple[str, ...]:
    """Print the answer, comparisons, fronts and what holds over tasks; return what could not be used."""
    problems: tuple[str, ...] = ()
    print_answer(tables.effects, made)
    for key, comparisons in made.items():
        problems += print_comparisons(comparisons, key, tables.out)
    if settings.pareto:
        problems += print_pareto(tables.effects, settings, tables.out)
    if settings.across:
        print_across(tables.effects, tables.out)
    return problems


def _end(tables: Tables, problems: tuple[str, ...], fair: bool) -> None:
    """Write all runs; print and write what is unequal between configurations and what could not be used."""
    write(tables.out, "runs", tables.table)
    unfair = tables.effects.warnings if fair else ()
    lines = dict.fromkeys((*tables.problems, *problems))
    notes = [*(f"not fair: {line}" for line in unfair), *(f"problem: {line}" for line in lines)]
    write_bytes(tables.out / "notes.txt", "".join(f"{line}\n" for line in notes).encode())
    print("\n".join(["", *notes, f"tables: {tables.out}"]))


def print_table(tables: Tables, keys: list[str], rates: str) -> tuple[str, ...]:
    """Print and write the rows over seeds; return what could not be used."""
    table, chosen = tables.table, tables.effects.chosen
    if rates == "chosen":
        without = table[(table["status"] != Status.done.value) & ~table["foreign"]]
        table = pd.concat([chosen, without, table[table["foreign"]]])
    rows, problems = grouped(table, keys, tables.effects)
    if rates == "chosen":
        rows = with_choice(rows, chosen)
    text = shown(rows, keys)
    show(text)
    write(tables.out, "table", rows, text)
    return problems


def print_answer(effects: Effects, made: dict[str, Comparisons]) -> None:
    """Print the paragraph of each model and task that the page opens with."""
    scored, forgot = (made[one.key].found if one.key in made else () for one in (LEARNING, FORGETTING))
    for one in answers(effects, scored, forgot):
        print("\n" + textwrap.fill(" ".join(one.sentences), 120))


def print_comparisons(found: Comparisons, outcome: str, out: Path) -> tuple[str, ...]:
    """Print and write the verdicts in an outcome; return what could not be used."""
    scored = outcome == LEARNING.key
    if not found.found and not scored:
        return found.problems
    print("" if scored else f"\n{WORDS.get(outcome, outcome)}:")
    print("\n".join(f"{one.where}: {one.verdict}" if one.where else one.verdict for one in found.found) or NOTHING)
    if found.unsearched and scored:
        print(UNSEARCHED)
    name = "comparisons" if scored else f"comparisons_{re.sub('[^a-z0-9]+', '_', outcome.lower())}"
    write(out, name, found.table(), shown_comparisons(found))
    return found.problems


def print_across(effects: Effects, out: Path) -> None:
    """Print and write what holds over several tasks and models, where there are several."""
    found = across(effects)
    if found is None:
        return
    print(f"\nover {found.rows['tasks'].iloc[0]} tasks and models (Agarwal et al. 2021):")
    show(shown_across(found.rows))
    for one in found.pairs.itertuples():
        said = f"{one.first} scores higher than {one.second} with probability {one.probability:.2f}"
        print(f"{said} [{one.low:.2f}, {one.high:.2f}]: {one.result}")
    write(out, "across", found.rows, shown_across(found.rows))
    write(out, "across_pairs", found.pairs)


def print_pareto(effects: Effects, settings: Choice, out: Path) -> tuple[str, ...]:
    """Print and write the Pareto-optimal configurations and forgetting at equal learning; return what is missing."""
    found = pareto(effects, settings.learning, settings.margin)
    print()
    if found.rows.empty:
        print("nothing to compare: no finished run has both a score and a measured forgetting")
        return found.problems
    show(shown_pareto(found.rows))
    print()
    for one in found.equal.itertuples():
        sizes = f"{one.first_forgetting:+.3f} against {one.second_forgetting:+.3f}, difference {one.difference:+.3f}"
        said = f"; {sizes} [{one.low:+.3f}, {one.high:+.3f}]" if math.isfinite(one.low) else ""
        print(f"{one.first}, {one.second}: {one.verdict}{said}")
    write(out, "pareto", found.rows, shown_pareto(found.rows))
    write(out, "equal_learning", found.equal)
    return found.problems
