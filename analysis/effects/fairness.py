"""A fair comparison: each configuration at the learning rate that validation chose, and what is not fair about it.

Where a search on a seed of its own chose the rate, that rate counts. Else, of several rates, the mean validation score
over the reported seeds chooses, which flatters the seeds that chose; a rate at which any seed diverged is worst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pandas as pd

from analysis.records.conditions import differs, named, unlike_conditions
from analysis.records.configurations import UNIT, blocks, configured, newest, repeated

CLOSE = 0.02
"""Relative; tokens of equal budgets differ by this much, as batches of other seeds are padded otherwise."""


class Fair(NamedTuple):
    """The rows to compare, and a line for each thing that makes them unequal."""

    chosen: pd.DataFrame
    """Runs that are done, at their configuration's chosen rate, one a seed; columns `configuration`, `rates_tried`
    (how many), `rates` (which), `chosen_by` (a search, its own seeds, or given) and `diverged_seeds` (which have no
    result there) besides."""
    warnings: tuple[str, ...]


def fair(table: pd.DataFrame) -> Fair:
    """Choose each configuration's learning rate by its mean validation score over seeds; the test split has no say.

    A method that was given three rates and one that was given one are not tried equally: the warnings say so, and name
    the rows. Runs of different models, tasks or data are chosen and judged apart.
    """
    runs = configured(table[(table["status"] == "done") & ~table["foreign"]])
    diverged_at = diverged(table, runs)
    chosen, warnings = [], list(_kept_apart(runs))
    for where, rows in blocks(runs):
        prefix = f"{where}: " if where else ""
        at = (rows["model"].iloc[0], rows["task"].iloc[0])
        picked = [
            _choose(str(name), some, diverged_at.get((*at, name), {})) for name, some in rows.groupby(UNIT, sort=False)
        ]
        kept = pd.concat([one.rows for one in picked])
        chosen.append(kept)
        lines = [*_rates(picked), *_unequal(kept)]
        warnings += [prefix + line for line in lines]
    columns = {"rates_tried": "Int64", "rates": "str", "chosen_by": "str", "diverged_seeds": "str"}
    empty = runs.assign(**{name: pd.Series(dtype=kind) for name, kind in columns.items()})
    return Fair(pd.concat(chosen).reset_index(drop=True) if chosen else empty, tuple(warnings))


DivergedSeeds = dict[float, list[int]]
"""Rate → the seeds that diverged there."""


def diverged(table: pd.DataFrame, runs: pd.DataFrame) -> dict[tuple[str, str, str], DivergedSeeds]:
    """Return (model, task, configuration) → the rates at which seeds diverged, of the configurations in `runs`.

    A seed that was trained again, to its end, counts as that.
    """
    failed = table[table["diverged"].fillna(False)]
    names = [name for name in table.columns if name in runs.columns]
    both = configured(pd.concat([runs[names], failed[names]], ignore_index=True)) if len(failed) else runs
    places = list(zip(both["model"], both["task"], both[UNIT], strict=True))  # failed runs may differ in more settings
    known = dict(zip(places, runs[UNIT], strict=False))
    ended = {*zip(places, runs["learning_rate"], runs["seed"], strict=False)}
    found: dict[tuple[str, str, str], DivergedSeeds] = {}
    for place, rate, seed in zip(places[len(runs) :], failed["learning_rate"], failed["seed"], strict=True):
        if place in known and (place, rate, seed) not in ended:
            here = found.setdefault((*place[:2], known[place]), {})
            here.setdefault(float(rate), []).append(int(seed))
    return found


@dataclass(frozen=True)
class Choice:
    """A configuration's chosen runs, and how they were chosen."""

    name: str
    rows: pd.DataFrame
    rate: float | None
    """None where it cannot be chosen."""
    by: str
    """``search``, ``seeds`` (those that are reported), or ``given``."""
    tried: tuple[float, ...] = ()
    """Empty where a search chose, whose own warning counts."""
    warning: str = ""
    """Why a search ended too soon."""
    diverged_at: DivergedSeeds = field(default_factory=dict)
    repeated: tuple[int, ...] = ()


def _choose(name: str, runs: pd.DataFrame, diverged_at: DivergedSeeds) -> Choice:
    again = tuple(seed for _, some in runs.groupby("learning_rate", dropna=False) for seed in repeated(some))
    once = pd.concat([newest(some) for _, some in runs.groupby("learning_rate", dropna=False)])
    searched = once[once["searched"].fillna(False)].sort_values(["rates_tried", "started"])
    found = _by_search(name, once, searched.iloc[-1]) if len(searched) else _by_seeds(name, once, diverged_at)
    without = ", ".join(map(str, diverged_at.get(found.rate, ()))) if found.rate is not None else ""
    return replace(
        found,
        rows=found.rows.sort_values("seed").assign(diverged_seeds=without),
        diverged_at=diverged_at,
        repeated=again,
    )


def _by_search(name: str, once: pd.DataFrame, search: pd.Series[Any]) -> Choice:
    """Take the rate of the search that tried the most rates, whatever other rates were trained at."""
    rate, warning = float(search["learning_rate"]), str(search["search_why"]) if search["search_warning"] else ""
    said = {"rates_tried": int(search["rates_tried"]), "rates": search["search_rates"], "chosen_by": "search"}
    return Choice(name, once[once["learning_rate"] == rate].assign(**said), rate, "search", warning=warning)


def _by_seeds(name: str, once: pd.DataFrame, diverged_at: DivergedSeeds) -> Choice:
    """Take the rate of the best mean validation score among those at which no seed diverged."""
    tried = tuple(sorted({*once["learning_rate"].dropna().tolist(), *diverged_at}))
    several, alive = len(tried) > 1, [rate for rate in tried if rate not in diverged_at]
    means = once[once["learning_rate"].isin(alive)].groupby("learning_rate")["validation"].mean().dropna()
    rate = tried[0] if tried and not several else None
    if several and alive and len(means) == len(alive):
        rate = float((means if once["higher_is_better"].iloc[0] else -means).idxmax())
    kept = once[once["learning_rate"] == rate] if several else once
    by = "seeds" if several else "given"
    said = {"rates_tried": len(tried), "rates": ", ".join(f"{value:g}" for value in tried), "chosen_by": by}
    return Choice(name, kept.assign(**said), rate, by, tried)


def _rates(picked: list[Choice]) -> Iterator[str]:
    """Yield what is unequal about how the rates were chosen."""
    unchosen = [one for one in picked if one.rate is None and len(one.tried) > 1]
    hopeless = [one.name for one in unchosen if {*one.tried} == {*one.diverged_at}]
    if hopeless:
        yield f"some seed diverged at every learning rate, so none can be chosen; left out: {named(hopeless)}"
    unknown = [one.name for one in unchosen if one.name not in hopeless]
    if unknown:
        yield f"no validation score for every learning rate, so none can be chosen; left out: {named(unknown)}"
    how = {one.name: "by a search" if one.by == "search" else str(len(one.tried)) for one in picked}
    yield from _differs("learning rates tried", how)
    yield from _edges(picked)
    survived = [
        f"{one.name} (seed {', '.join(map(str, one.diverged_at[one.rate]))})"
        for one in picked
        if one.rate in one.diverged_at
    ]
    if survived:
        yield f"a seed diverged, and the score is of the others alone: {named(survived)}"
    again = [f"{one.name} (seed {', '.join(map(str, one.repeated))})" for one in picked if one.repeated]
    if again:
        yield f"a seed was run more than once, the last counts: {named(again)}"


def _edges(picked: list[Choice]) -> Iterator[str]:
    """Yield which rates may not be the best: the search ended too soon, or they are the last of those tried."""
    early = [f"{one.name} ({one.warning})" for one in picked if one.warning]
    if early:
        yield f"the optimum is not inside the learning rates that the search tried: {named(early)}"
    ends = [_edge(one) for one in picked if len(one.tried) > 1 and one.rate in (one.tried[0], one.tried[-1])]
    if ends:
        yield f"the best learning rate is at the edge of those tried, a better one may lie beyond: {named(ends)}"


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
