"""Advice in words: the paragraph that the command prints and the page opens with."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

from analysis.effects.comparisons import PAIRS
from analysis.views.advise.advice import Advice, Candidate
from analysis.views.advise.constraints import GIB, State, span
from analysis.views.answer import listed

WIDTH = 120
CHEAP = {
    "seconds": "trains in the fewest seconds",
    "memory": "needs the least memory",
    "parameters": "trains the fewest parameters",
}


def text(found: Advice) -> str:
    """Return the advice on one model and task as lines: the paragraph, who is out and why, what is open."""
    lines = [textwrap.fill(f"{found.where}: {' '.join(sentences(found))}", WIDTH)]
    lines += [f"may satisfy: {label}: {why}" for label, why in found.possible.items()]
    lines += [f"excluded: {label}: {why}" for label, why in found.excluded.items()]
    for one in found.experiments:
        lines += ["", f"open: {one.question}? It takes {one.needs}.", *(f"  {command}" for command in one.commands)]
    return "\n".join(lines)


def sentences(found: Advice) -> Iterator[str]:
    """Yield the sentences of the paragraph."""
    candidates = {one.label: one for one in found.candidates}
    if found.advised is not None:
        yield f"use {found.advised}{_costs(candidates[found.advised])}."
    yield from _satisfying(found)
    if found.leader is None:
        return
    yield _leading(candidates[found.leader], found)
    yield from _others(found)
    yield from _forgotten(found, candidates)
    if found.better:
        yield f"{listed(found.better)} shown to be better than {found.leader}, if the constraints hold."
    if not found.searched:
        yield f"These are {PAIRS}: the rates were not searched for."


def _satisfying(found: Advice) -> Iterator[str]:
    """Yield who is shown to satisfy the constraints, and who may."""
    if not found.asked:
        count = len(found.candidates)
        yield f"No constraint was given: {'the one configuration counts' if count == 1 else f'all {count} count'}."
        return
    constraints = ", ".join(found.asked.values())
    sure = [one.label for one in found.candidates if one.state is State.satisfied]
    yield f"{listed(sure)} shown to satisfy {constraints}." if sure else f"None is shown to satisfy {constraints}."
    if found.possible:
        more = " more" if sure else ""
        yield f"{len(found.possible)}{more} may, by the estimate alone or for lack of a measurement."
    if not sure and not found.possible:
        yield "Relax a constraint; what excludes each configuration stands below."


def _leading(leader: Candidate, found: Advice) -> str:
    seeds = f"{leader.seeds} seed{'' if leader.seeds == 1 else 's'}"
    alone = not (found.undecided or found.equivalent or found.worse)
    by = "by validation" if math.isfinite(leader.validation) else "by its mean, for there is no validation score"
    best = f"{leader.label} is the only one" if alone else f"Of these {leader.label} is the best {by}"
    return f"{best} ({leader.score.name} {leader.score} on the test split, {seeds})."


def _others(found: Advice) -> Iterator[str]:
    """Yield what is shown of the others against the leader, and what is not."""
    margin = f"{found.margin:.2g}"
    if found.equivalent:
        yield f"{listed(found.equivalent)} equivalent to it within {margin}."
        cheap = [f"{name} {CHEAP[cost]}" for cost, name in found.cheapest.items()]
        yield f"Of the equivalent ones {'; '.join(cheap)}."
    elif found.undecided or found.worse:
        yield f"None is shown to be equivalent to it within {margin}, so nothing cheaper can stand in for it."
    if found.worse:
        yield f"{listed(found.worse)} shown to be worse."
    if found.undecided:
        yield f"{listed(found.undecided)} undecided against it, which is not equivalent."


def _costs(one: Candidate) -> str:
    """Return what a configuration costs, in brackets."""
    parts = []
    if one.seconds is not None:
        parts.append(f"trains {span(one.seconds)}")
    if one.memory is not None:
        planned = " planned" if one.memory.name.startswith("planned") else ""
        parts.append(f"{one.memory.value / GIB:.2f} GiB{planned}")
    if one.parameters is not None:
        parts.append(f"{one.parameters.value:,.0f} parameters")
    return f" ({', '.join(parts)})" if parts else ""


def _forgotten(found: Advice, candidates: dict[str, Candidate]) -> Iterator[str]:
    """Yield what those that may be best forget, and which is shown to forget less than the leader."""
    names = [name for name in (found.leader, *found.equivalent, *found.undecided) if name is not None]
    known = [(name, amount) for name in names if (amount := candidates[name].forgetting) is not None]
    if not known:
        yield "What they forget was not measured."
        return
    for kind in dict.fromkeys(amount.name for _, amount in known):
        said = [f"{name} {amount}" for name, amount in known if amount.name == kind]
        yield f"Forgetting of {kind}, more is worse: {'; '.join(said)}."
    if found.forget_less:
        yield f"{listed(found.forget_less)} shown to forget less than {found.leader}."
