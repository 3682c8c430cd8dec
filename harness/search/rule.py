"""The rule by which a learning rate is searched: a pure function of what the tried rates scored.

Rates lie a quarter of a decade apart on a logarithmic scale; place 0 is the method's own default, and place ``k`` is
the default times ``10^(k/4)``. The search tries places half a decade apart, goes on where the best may lie beyond what
was tried, and refines once. It follows the Deep Learning Tuning Playbook (Godbole et al. 2023): a best point near the
boundary asks for a wider search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FIRST = (0, 2, -2)
"""Places of the first round, in the order in which a small budget takes them."""
HALF_DECADE = 2
CLEAR = 1.645
"""Standard errors by which a rate must score below the best: one side of 5 %."""


def rate_at(start: float, place: int) -> float:
    """Return the learning rate of a place: ``start · 10^(place/4)`` to three digits; of place 0, `start` itself.

    A start that is a rung of the ladder 1, 1.78, 3.16, 5.62, 10 … to three digits counts as the rung, so that searches
    that start from different rungs share their runs.
    """
    rung = 10 ** (round(4 * math.log10(start)) / 4)
    exact = rung if f"{rung:.2e}" == f"{start:.2e}" else start
    return float(f"{exact * 10 ** (place / 4):.3g}") if place else start


@dataclass(frozen=True)
class Trial:
    """What a tried rate scored on the validation split; higher is better."""

    value: float
    """Minus infinity where the run diverged, ended early, or changed no answer."""
    items: tuple[float, ...] = ()
    """Each item's share of `value`, by which two rates are compared item by item; none where it has none."""
    error: float = 0.0
    """The standard error of `value` where there are no items."""
    base: float = 0.0
    """What the untouched model scores on the same items."""
    untrained: bool = False
    """Whether it is worst because no answer changed: its rate was too small, not too large."""

    @property
    def worst(self) -> bool:
        """Return whether nothing can score lower."""
        return self.value == -math.inf


WORST = Trial(-math.inf)
UNTRAINED = Trial(-math.inf, untrained=True)
Trials = Mapping[int, Trial]


@dataclass(frozen=True)
class Decision:
    """What a search does next, or what it has found."""

    train: tuple[int, ...] = ()
    """Places to try now, independent of each other; none once the search has ended."""
    chosen: int | None = None
    """The best place so far, None where every tried rate is worst."""
    why: str = ""
    """Why the search ended; empty while it goes on."""
    warning: bool = False
    """Whether it ended before the optimum was found inside of what was tried."""
    tried: tuple[int, ...] = ()
    """The places that the decision rests on, in the order in which they were tried."""


def decide(found: Trials, max_runs: int) -> Decision:
    """Replay the search over what is known; where a result that it needs is missing, ask for it.

    The same results give the same decision, whoever trained them and when: a search that was killed goes on where it
    was, and a larger budget goes on where the smaller ended.
    """
    path = Path(found, max_runs)
    if not path.take(FIRST):
        return path.asks()
    while not path.ended:
        beyond = path.beyond()
        if not beyond:
            break
        if not path.take(beyond):
            return path.asks()
    refined = path.between() if not path.ended else ()
    if refined and not path.take(refined):
        return path.asks()
    return path.result()


class Path:
    """The rates that a search has gone over."""

    def __init__(self, found: Trials, max_runs: int) -> None:
        self.found, self.max_runs = found, max_runs
        self.tried: list[int] = []
        self.missing: tuple[int, ...] = ()
        self.ended = ""
        """Why no further rate may be tried, empty while one may."""

    def take(self, places: Sequence[int]) -> bool:
        """Go on to these places as far as the budget reaches; return False where a result is missing."""
        left = self.max_runs - len(self.tried)
        if left < len(places):
            self.ended = f"search.max_runs={self.max_runs} reached"
        self.tried += places[:left]
        self.missing = tuple(place for place in self.tried if place not in self.found)
        return not self.missing

    def asks(self) -> Decision:
        """Return the decision to train what is missing."""
        return Decision(train=self.missing, tried=tuple(self.tried))

    @property
    def best(self) -> int | None:
        """Return the tried place that scored highest, of equals the middle one; None where all are worst."""
        alive = [place for place in self.tried if not self.found[place].worst]
        if not alive:
            return None
        top = max(self.found[place].value for place in alive)
        equals = sorted(place for place in alive if self.found[place].value == top)
        return equals[(len(equals) - 1) // 2]

    def beyond(self) -> tuple[int, ...]:
        """Return the next places outward on each side on which the optimum may still lie."""
        best = self.best
        if best is None:  # every rate failed: smaller ones may not, or larger where the largest changed nothing
            largest = max(self.tried)
            return (largest + HALF_DECADE if self.found[largest].untrained else min(self.tried) - HALF_DECADE,)
        sides = [(-1, min(self.tried)), (1, max(self.tried))]
        return tuple(edge + side * HALF_DECADE for side, edge in sides if not self.closed(best, side))

    def closed(self, best: int, side: int) -> bool:
        """Return whether a rate that was tried on a side is clearly worse than the best."""
        return any(
            clearly_below(self.found[place], self.found[best]) for place in self.tried if side * (place - best) > 0
        )

    def between(self) -> tuple[int, ...]:
        """Return the places a quarter of a decade from the best where the optimum may rather lie.

        None where neither neighbour, half a decade away, is clearly below the best: a quarter then cannot matter.
        """
        best = self.best
        if best is None:
            return ()
        places = [best - HALF_DECADE, best + HALF_DECADE]
        if not set(places) <= set(self.tried):
            return ()
        low, high = (self.found[place] for place in places)
        if not (clearly_below(low, self.found[best]) or clearly_below(high, self.found[best])):
            return ()
        return tuple(best + side for side in lean(low, self.found[best], high) if best + side not in self.tried)

    def result(self) -> Decision:
        """Return what was found, and whether it can be relied on."""
        best, tried = self.best, tuple(self.tried)
        if best is None:
            return Decision(why=f"{self.ended}: all rates were worst", warning=True, tried=tried)
        open_sides = [name for side, name in ((-1, "smaller"), (1, "larger")) if not self.closed(best, side)]
        if open_sides:
            why = f"{self.ended}: a {' or '.join(open_sides)} rate may be better"
            return Decision(chosen=best, why=why, warning=True, tried=tried)
        return Decision(chosen=best, why="the optimum lies inside", tried=tried)


def clearly_below(other: Trial, best: Trial) -> bool:
    """Return whether a trial scored below the best by more than the validation items' noise.

    By the standard error of the mean difference item by item, or of two independent scores where there are no items.
    """
    if other.worst:
        return True
    if other.items and len(other.items) == len(best.items):
        differences = [a - b for a, b in zip(best.items, other.items, strict=True)]
        mean = sum(differences) / len(differences)
        squares = sum((value - mean) ** 2 for value in differences)
        error = math.sqrt(squares / max(len(differences) - 1, 1) / len(differences))
    else:
        error = math.hypot(other.error, best.error)
    return best.value - other.value > CLEAR * error


def lean(low: Trial, best: Trial, high: Trial) -> tuple[int, ...]:
    """Return the sides of the best, −1 and 1, on which the optimum may lie.

    Both where both neighbours fall short by more than half of what the best had learnt, or one is worst: between two
    steep sides three points do not say where the top is. Otherwise the vertex of the parabola through the three says
    which, and none where it lies within an eighth of a decade of the best, the nearest place already.
    """
    if low.worst or high.worst or max(low.value, high.value) - best.base < (best.value - best.base) / 2:
        return (-1, 1)
    bend = low.value - 2 * best.value + high.value
    vertex = (low.value - high.value) / (2 * bend) if bend else 0.0  # in half decades from the best
    return () if abs(vertex) <= 0.25 else (int(math.copysign(1, vertex)),)
