"""The answer that table and page open with: for each model and task what is best, what it forgets, costs, is open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analysis.effects.blocks import Block, Effect, Effects
from analysis.effects.comparisons import PAIRS, Comparison
from analysis.effects.outcomes import COSTS, FORGETTING, LEARNING
from analysis.effects.verdicts import Needed, Verdict
from analysis.views.table.writing import number

NAMED = 6
"""Configurations that a sentence names before it counts the rest."""


@dataclass(frozen=True)
class Answer:
    """What may be concluded of one model and task."""

    where: str
    place: tuple[str, ...]
    """The model, task, metric and data that its runs share."""
    best: str
    """The configuration with the highest mean, or the one that all are compared with."""
    equivalent: tuple[str, ...]
    """Those shown to be within the margin of `best`."""
    undecided: tuple[str, ...]
    worse: tuple[str, ...]
    """Those that `best` is shown to be ahead of."""
    sentences: tuple[str, ...]
    """The paragraph."""


def answers(effects: Effects, scored: Sequence[Comparison], forgot: Sequence[Comparison]) -> list[Answer]:
    """Return a paragraph for each model and task with two configurations that were compared in their scores."""
    return [answer for block in effects.blocks for answer in _answer(block, scored, forgot)]


def _answer(block: Block, scored: Sequence[Comparison], forgot: Sequence[Comparison]) -> Iterator[Answer]:
    here = [one for one in scored if one.where == block.where]
    if not here:
        return
    effects, (model, task, *_) = block.effects(LEARNING), block.place
    best, leads = _anchor(effects, here)
    against = {_other(one, best): one for one in here if best in (one.first, one.second)}
    groups = {kind: [name for name, one in against.items() if _kind(one, best) == kind] for kind in Verdict}
    rivals = [best, *groups[Verdict.better], *groups[Verdict.equivalent], *groups[Verdict.undecided]]
    forgotten = [one for one in forgot if one.where == block.where]
    sentences = [
        f"{model}, {task}:",
        *_ahead(effects[best], leads, groups, next(iter(against.values()))),
        *_forgotten(block, rivals, forgotten),
        *_costs(block, rivals),
        *_open(against, groups[Verdict.undecided]),
    ]
    equal, unknown, worse = (tuple(groups[kind]) for kind in (Verdict.equivalent, Verdict.undecided, Verdict.worse))
    yield Answer(block.where, block.place, best, equal, unknown, worse, tuple(sentences))


def _anchor(effects: dict[str, Effect], here: list[Comparison]) -> tuple[str, bool]:
    """Return the configuration with the best mean among those that are compared with all others, and if it leads."""
    named = [{one.first, one.second} for one in here]
    sign = 1 if here[0].higher_is_better else -1
    first = max(set.union(*named), key=lambda name: (sign * effects[name].estimate.value, name))
    everywhere = set.intersection(*named) if len(named) > 1 else {first}
    anchor = everywhere.pop() if everywhere else first  # where all are compared with one, it is that one
    return anchor, anchor == first


def _other(one: Comparison, best: str) -> str:
    return one.second if one.first == best else one.first


def _kind(one: Comparison, best: str) -> Verdict:
    """Return the verdict of the other against `best`."""
    if one.ahead is None:
        return one.result
    return Verdict.worse if one.ahead == best else Verdict.better


def _ahead(best: Effect, leads: bool, groups: dict[Verdict, list[str]], one: Comparison) -> Iterator[str]:
    low, high = best.interval()
    seeds = f"{len(best.runs)} seed{'' if len(best.runs) == 1 else 's'}"
    size = f"{best.title} {number(best.estimate.value)} [{number(low)}, {number(high)}], {seeds}, {best.items:,} items"
    yield f"{best.label} has the best mean ({size})." if leads else f"All are compared with {best.label} ({size})."
    margin = f"within {one.margin:.2g}"
    said = {
        Verdict.better: "{} shown to be better.",
        Verdict.equivalent: f"{{}} equivalent to it {margin}.",
        Verdict.worse: "{} shown to be worse.",
    }
    for kind, words in said.items():
        if groups[kind]:
            yield words.format(listed(groups[kind]))
    if not any(groups[kind] for kind in said):
        yield "No difference to any other is shown, nor equivalence."
    if not one.searched:
        yield f"These are {PAIRS}: the rates were not searched for."


def listed(names: Sequence[str]) -> str:
    """Return names as the subject of a sentence: ``a is``, ``a and b are``, ``a, b and 3 more are``."""
    shown, more = list(names[:NAMED]), len(names) - NAMED
    parts = [*shown, f"{more} more"] if more > 0 else shown
    head = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"{head} {'are' if len(parts) > 1 else 'is'}"


def _forgotten(block: Block, rivals: list[str], forgotten: Sequence[Comparison]) -> Iterator[str]:
    """Yield what those that may be best forget, and which of them is shown to forget less than the best mean."""
    effects = block.effects(FORGETTING)
    known = [effects[name] for name in rivals if name in effects]
    if not known:
        return
    sign = -1 if known[0].higher_is_better else 1
    order = sorted(known, key=lambda one: (sign * one.estimate.value, one.label))
    ends = [f"{one.label} {number(one.estimate.value, '+')}" for one in (order[0], order[-1])]
    span = f"from {ends[0]} to {ends[1]}" if len(order) > 1 else ends[0]
    yield f"Change of {known[0].title}: {span}."
    shown = [one for one in forgotten if one.ahead and {one.first, one.second} <= {*rivals}]
    less = dict.fromkeys(str(one.ahead) for one in shown if rivals[0] in (one.first, one.second))
    less.pop(rivals[0], None)
    if less:
        yield f"{listed(list(less))} shown to forget less than {rivals[0]}."
    elif len(order) > 1:
        yield f"None of them is shown to forget less than {rivals[0]}."


def _costs(block: Block, rivals: list[str]) -> Iterator[str]:
    """Yield the cheapest of those that may be best in each cost, where that is not the best mean itself."""
    said = []
    for words, outcome, unit in (
        ("trains the fewest parameters", COSTS["parameters"], lambda x: f"{x:,.0f}"),
        ("trains in the fewest seconds", COSTS["seconds"], lambda x: f"{x:,.0f}"),
        ("needs the least memory", COSTS["memory"], lambda x: f"{x / 2**30:.2f} GiB"),
    ):
        effects = {name: one for name, one in block.effects(outcome).items() if name in rivals}
        if rivals[0] in effects and len(effects) > 1:
            least = min(effects.values(), key=lambda one: (one.estimate.value, one.label))
            found, own = (unit(one.estimate.value) for one in (least, effects[rivals[0]]))
            if found != own:
                said.append(f"{least.label} {words}: {found} against {own}")
    if said:
        yield f"Of these, {'; '.join(said)}."


def _open(against: dict[str, Comparison], names: list[str]) -> Iterator[str]:
    """Yield what is not known and what would settle it."""
    if not names:
        return
    needs = [against[name].needed for name in names]
    ends = dict.fromkeys((_words(min(needs)), _words(max(needs))))  # once where they are the same
    margin = f"{against[names[0]].margin:.2g}"
    takes = f"from {' to '.join(ends)}" if len(ends) > 1 else next(iter(ends))
    yield f"{listed(names)} undecided against it; to decide a difference of {margin} takes {takes}."


def _words(needed: Needed) -> str:
    return str(needed).replace("n needed: ", "").replace("n needed ≈", "about")
