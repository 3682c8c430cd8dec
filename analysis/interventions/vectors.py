"""Which singular vectors of the tuned matrices are scaled: intruders, and beside each a neighbour that is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.changes import Change, LowRank, Matrix
from analysis.intruders.analyse import detector
from analysis.intruders.detection import Detection, Numbers
from analysis.intruders.proofs import Flags
from analysis.intruders.settings import Settings as Counting
from analysis.spectra import low_rank_svd
from analysis.weights import Pair

WIDER = 2
"""Where all of the top k are intruders, a neighbour is looked for among this many times k vectors."""


@dataclass(frozen=True)
class Scaling:
    """Some singular triplets of one tuned matrix, to be multiplied by λ."""

    matrix: str
    """The base's name of the tensor."""
    indices: tuple[int, ...]
    u: Float[Tensor, "out n"]
    s: Float[Tensor, " n"]
    v: Float[Tensor, "in n"]
    cos: tuple[float, ...]
    """max |cos| of each left vector with the base, or the least upper bound that was proved."""
    cut: LowRank | None = None
    """ΔW, where the sum is cut back to its rank as PEFT's mitigation does."""

    def update(self, factor: float) -> Float[Tensor, "out in"]:
        """Return what λ = `factor` adds to W: Σ (λ - 1) u σ vᵀ, over the vectors."""
        added = LowRank((factor - 1) * self.u * self.s, self.v.T)
        return added.dense() if self.cut is None else self._cut_back(self.cut, added)

    @staticmethod
    def _cut_back(change: LowRank, added: LowRank) -> Float[Tensor, "out in"]:
        """Return [ΔW + Σ (λ - 1) u σ vᵀ]_r - ΔW, the best approximation of ΔW's rank r less ΔW.

        As ``peft.tuners.lora.intruders`` does, so that what remains is an adapter of the same rank.
        """
        both = low_rank_svd(torch.cat([change.b, added.b], 1), torch.cat([change.a, added.a]))
        rank = change.a.shape[0]
        kept: Tensor = (both.u[:, :rank] * both.s[:rank]) @ both.v[:, :rank].T
        return kept - change.dense()


@dataclass(frozen=True)
class Chosen:
    """What is scaled in one matrix; None where there is nothing of the kind."""

    matrix: str
    kind: str
    layer: int | None
    intruders: Scaling | None = None
    neighbour: Scaling | None = None


def choose(pair: Pair, counting: Counting, mode: str, reference: str, cut: bool) -> Iterator[Chosen]:
    """Yield each matrix of a pair with what is scaled in it."""
    for name in pair.names:
        loaded = pair.load(name)
        matrix = next((one for one in loaded if one.reference == reference), loaded[0])
        labels = matrix.name, matrix.kind, matrix.layer
        if matrix.change.squared_norm() == 0:
            yield Chosen(*labels)
            continue
        found = detector(matrix, counting).detect(matrix.change)
        intruding = found.left.high < counting.eps
        if mode == "mitigation":
            adapter = loaded[-1].change  # over a quantised base the last is the change of what was quantised
            yield Chosen(*labels, _all_of(matrix, found, intruding.nonzero()[0].tolist(), adapter if cut else None))
        else:
            yield Chosen(*labels, *_top_and_neighbour(matrix, found, counting))


def _all_of(matrix: Matrix, found: Detection, indices: list[int], cut: Change | None) -> Scaling | None:
    if not indices:
        return None
    return replace(_scaling(matrix, found, indices), cut=cut if isinstance(cut, LowRank) else None)


def _top_and_neighbour(matrix: Matrix, found: Detection, counting: Counting) -> tuple[Scaling | None, Scaling | None]:
    """Return the intruder of the largest singular value, and its nearest neighbour that is none."""
    intruding = found.left.high < counting.eps
    if not intruding.any():
        return None, None
    top = int(intruding.argmax())
    beside = neighbour(top, intruding, found.top.s.double().cpu().numpy())
    wider = min(WIDER * counting.k, *matrix.shape)
    if beside is None and wider > counting.k:
        counting = replace(counting, k=wider)
        found = detector(matrix, counting).detect(matrix.change)
        beside = neighbour(top, found.left.high < counting.eps, found.top.s.double().cpu().numpy())
    return _scaling(matrix, found, [top]), None if beside is None else _scaling(matrix, found, [beside])


def neighbour(top: int, intruding: Flags, s: Numbers) -> int | None:
    """Return the nearest index to `top` that is no intruder, of two as near the one whose σ is closer; None if none."""
    others = [index for index in range(len(s)) if not intruding[index]]
    return min(others, key=lambda index: (abs(index - top), abs(s[index] - s[top])), default=None)


def _scaling(matrix: Matrix, found: Detection, indices: list[int]) -> Scaling:
    top, high = found.top, found.left.high
    return Scaling(
        matrix.name,
        tuple(indices),
        top.u[:, indices],
        top.s[indices],
        top.v[:, indices],
        tuple(float(high[index]) for index in indices),
    )
