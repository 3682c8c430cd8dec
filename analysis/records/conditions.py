"""Under what conditions runs were made, and which rows of a comparison were made under others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

NAMED = 8
"""Rows that a warning names before it counts the rest."""
CONDITIONS = {
    "precision_trained": "precisions of the trained weights (train.master_weights)",
    "precision_compute": "precisions of computation",
    "precision_weights": "precisions of the frozen weights",
    "device_kind": "devices (CPU or GPU), so times and memory,",
    "device": "machines, so times and memory,",
    "processor": "processors",
    "kernels": "CPU kernels",
    "threads": "threads, so times and last digits,",
    "processes": "processes",
    "environment": "environment variables",
    "commit": "commits",
}
"""Column → what a warning calls it."""
RESUMED = "resumed under other versions or hardware"
STEPS_ALONE = 2
"""The first schema whose training seconds and memory are of optimiser steps alone."""

Rows = Mapping[str, pd.DataFrame]
"""Configuration → its runs."""


def unlike_conditions(runs: Rows) -> Iterator[str]:
    """Yield a line for each condition that is not the same in all runs, with the rows of each value.

    A row whose own seeds differ counts too: its spread is then over more than seeds. Runs whose record is too old to
    say are left aside; that there are such is a line of its own.
    """
    yield from _schemas(runs)
    yield from resumed_rows(runs)
    packages = {name for some in runs.values() for name in some.columns if name.startswith("version.")}
    names = CONDITIONS | {name: f"versions of {name.removeprefix('version.')}" for name in sorted(packages)}
    for column, what in names.items():
        found = {name: _values(column, some) for name, some in runs.items() if some[column].notna().any()}
        if len({value for values in found.values() for value in values}) > 1 and not _already_reported(column, runs):
            yield from differs(what, {name: "/".join(values) for name, values in found.items()})


def _values(column: str, runs: pd.DataFrame) -> list[str]:
    length = 8 if column == "commit" else None
    return [str(value)[:length] for value in sorted(set(runs[column].dropna()))]


def _already_reported(column: str, runs: Rows) -> bool:
    """Return whether another line says the same: of runs on a CPU the machine is the processor."""
    return column == "processor" and all(some["processor"].equals(some["device"]) for some in runs.values())


def _schemas(runs: Rows) -> Iterator[str]:
    old = [name for name, some in runs.items() if (some["schema"] < STEPS_ALONE).any()]
    if old and any((some["schema"] >= STEPS_ALONE).any() for some in runs.values()):
        yield (
            "costs were measured differently: training seconds, tokens/s and memory of records of schema 1 hold "
            f"checkpoints and evaluations on the way, of later ones optimiser steps alone; of schema 1: {named(old)}"
        )


def resumed_rows(runs: Rows) -> Iterator[str]:
    """Yield the line that names the rows with runs that went on under other conditions than they began."""
    found = [f"{name} ({_attempts(some)})" for name, some in runs.items() if _mixed(some).any()]
    if found:
        yield f"{RESUMED}, so that no one condition made their numbers: {named(found)}"


def resumed(runs: pd.DataFrame) -> str:
    """Return the flag of a row: which of its runs went on under other conditions; empty where none did."""
    return f"{RESUMED} ({_attempts(runs)})" if _mixed(runs).any() else ""


def _mixed(runs: pd.DataFrame) -> pd.Series[bool]:
    return runs["mixed"].notna()


def _attempts(runs: pd.DataFrame) -> str:
    found = runs[_mixed(runs)]
    return "; ".join(f"seed {seed}: {mixed}" for seed, mixed in zip(found["seed"], found["mixed"], strict=True))


def differs(what: str, found: Mapping[str, str]) -> Iterator[str]:
    """Yield a line where not all rows have the same, or one has several values, with the rows of each value."""
    groups: dict[str, list[str]] = {}
    for name, value in found.items():
        groups.setdefault(value, []).append(name)
    said = (f"{value or 'unknown'} ({named(names)})" for value, names in groups.items())
    yield f"{what} differ: {', '.join(said)}"


def named(names: list[str]) -> str:
    """Return names in a line, the ninth and later ones counted."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
