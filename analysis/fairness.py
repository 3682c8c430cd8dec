"""A fair comparison: each configuration at the learning rate that validation chose, and what is not fair about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from analysis.conditions import differs, named, unlike_conditions
from analysis.configurations import UNIT, blocks, configured, newest, repeated

CLOSE = 0.02
"""Relative; tokens of equal budgets differ by this much, as batches of other seeds are padded otherwise."""


class Fair(NamedTuple):
    """The rows to compare, and a line for each thing that makes them unequal."""

    chosen: pd.DataFrame
    """Runs that are done, at their configuration's chosen rate, one a seed; columns `configuration`, `rates_tried`
    (how many) and `rates` (which) besides."""
    warnings: tuple[str, ...]


def fair(table: pd.DataFrame) -> Fair:
    """Choose each configuration's learning rate by its mean validation score over seeds; the test split has no say.

    A method that was given three rates and one that was given one are not tried equally: the warnings say so, and name
    the rows. Runs of different models, tasks or data are chosen and judged apart.
    """
    runs = configured(table[(table["status"] == "done") & ~table["foreign"]])
    chosen, warnings = [], list(_kept_apart(runs))
    for where, rows in blocks(runs):
        prefix = f"{where}: " if where else ""
        picked = [_choose(str(name), some) for name, some in rows.groupby(UNIT, sort=False)]
        kept = pd.concat([one.rows for one in picked])
        chosen.append(kept)
        lines = [*_rates(picked), *_unequal(kept)]
        warnings += [prefix + line for line in lines]
    empty = runs.assign(rates_tried=pd.Series(dtype="Int64"), rates=pd.Series(dtype="str"))
    return Fair(pd.concat(chosen).reset_index(drop=True) if chosen else empty, tuple(warnings))


class Choice(NamedTuple):
    """A configuration's chosen runs, and how they were chosen."""

    name: str
    rows: pd.DataFrame
    tried: tuple[float, ...]
    rate: float | None
    """None where validation cannot choose."""
    repeated: tuple[int, ...]


def _choose(name: str, runs: pd.DataFrame) -> Choice:
    again = tuple(seed for _, some in runs.groupby("learning_rate", dropna=False) for seed in repeated(some))
    once = pd.concat([newest(some) for _, some in runs.groupby("learning_rate", dropna=False)])
    means = once.groupby("learning_rate")["validation"].mean().dropna()
    tried = tuple(sorted(once["learning_rate"].dropna().unique().tolist()))
    if len(tried) <= 1:
        rate = tried[0] if tried else None
    elif len(means) < len(tried):
        rate = None
    else:
        rate = float((means if once["higher_is_better"].iloc[0] else -means).idxmax())
    kept = once if len(tried) <= 1 else once[once["learning_rate"] == rate]
    said = {"rates_tried": len(tried), "rates": ", ".join(f"{value:g}" for value in tried)}
    return Choice(name, kept.sort_values("seed").assign(**said), tried, rate, again)


def _rates(picked: list[Choice]) -> Iterator[str]:
    """Yield what is unequal about how the rates were chosen."""
    lost = [one.name for one in picked if one.rate is None and len(one.tried) > 1]
    if lost:
        yield f"no validation score for every learning rate, so none can be chosen; left out: {named(lost)}"
    yield from _differs("learning rates tried", {one.name: str(len(one.tried)) for one in picked})
    ends = [_edge(one) for one in picked if len(one.tried) > 1 and one.rate in (one.tried[0], one.tried[-1])]
    if ends:
        yield f"the best learning rate is at the edge of those tried, a better one may lie beyond: {named(ends)}"
    again = [f"{one.name} (seed {', '.join(map(str, one.repeated))})" for one in picked if one.repeated]
    if again:
        yield f"a seed was run more than once, the last counts: {named(again)}"


def _edge(one: Choice) -> str:
    side = "largest" if one.rate == one.tried[-1] else "smallest"
    return f"{one.name} ({one.rate:g}, the {side} of {len(one.tried)})"


def _unequal(rows: pd.DataFrame) -> Iterator[str]:
    """Yield what differs between the rows that are compared, other than what is being compared."""
    runs = {str(name): some for name, some in rows.groupby(UNIT, sort=False)}
    yield from _budgets(runs)
    scales = {name: _values(some["scale"]) for name, some in runs.items() if some["scale"].notna().any()}
    yield from _differs("scales of the update (α/r or α/√r)", scales)
    yield from unlike_conditions(runs)
    dirty = [name for name, some in runs.items() if some["dirty"].fillna(False).any()]
    if dirty:
        yield f"trained with changes that no commit holds: {named(dirty)}"
    single = [name for name, some in runs.items() if some["seed"].nunique() < 2]
    if single:
        yield f"one seed only, so how far another would differ is not known: {named(single)}"
    yield from _differs("seeds", {name: _values(some["seed"]) for name, some in runs.items()})


def _budgets(runs: dict[str, pd.DataFrame]) -> Iterator[str]:
    yield from _differs("training steps", {name: _values(some["steps"]) for name, some in runs.items()})
    yield from _differs("epochs", {name: _values(_epochs(some)) for name, some in runs.items()})
    tokens = pd.Series({name: some["tokens"].mean() for name, some in runs.items()}, dtype="float64").dropna()
    if len(tokens) and tokens.max() > tokens.min() * (1 + CLOSE):
        least, most = tokens.idxmin(), tokens.idxmax()
        yield f"tokens trained on differ: from {tokens[least]:,.0f} ({least}) to {tokens[most]:,.0f} ({most})"


def _epochs(runs: pd.DataFrame) -> pd.Series[float]:
    """Return the epochs of the runs that count them; the others count steps."""
    names = ["config.train.max_steps", "config.train.num_train_epochs"]
    if not set(names) <= {*runs.columns}:
        return pd.Series(dtype="float64")
    return runs.loc[~(runs[names[0]] > 0).fillna(False), names[1]]


def _values(column: pd.Series[object]) -> str:
    """Return what a configuration's runs have there, a run without it left aside."""
    return "/".join(f"{value:g}" if isinstance(value, float) else str(value) for value in sorted(set(column.dropna())))


def _differs(what: str, found: dict[str, str]) -> Iterator[str]:
    """Yield a line where not all rows have the same, with the rows of each value."""
    if len(set(found.values())) > 1:
        yield from differs(what, found)


def _kept_apart(runs: pd.DataFrame) -> Iterator[str]:
    """Yield a line for each thing that keeps runs from being compared at all."""
    for name in ("model", "task", "metric"):
        found = sorted(runs[name].dropna().unique())
        if len(found) > 1:
            yield f"runs of {len(found)} {name}s ({', '.join(found)}): compared within each, never with another"
    for (model, task), some in runs.groupby(["model", "task"]):
        if some["data_hash"].nunique(dropna=False) > 1:
            sets = {
                str(data)[:8]: named(sorted(set(rows[UNIT]))) for data, rows in some.groupby("data_hash", dropna=False)
            }
            said = ", ".join(f"{data} ({names})" for data, names in sets.items())
            yield f"{model} on {task}: the data differ and are compared within each: {said}"
