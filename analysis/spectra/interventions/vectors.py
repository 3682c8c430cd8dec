"""What is taken out of the tuned matrices: intruders, and beside each what it is to be told from.

Each curve takes λ - 1 times a matrix D away from W, so that λ = 1 changes nothing. For the top intruder D = u σ vᵀ.
Its controls take as much from the same matrix, ‖D‖_F = σ:

    shrunk       ΔW / ‖ΔW‖_F: the change as a whole, a smaller α (WiSE-FT, arXiv 2109.01903)
    span         p qᵀ of a random direction in the span of ΔW
    own          u vᵀ of ΔW's own singular direction of the intruder's index

and, as the paper's control, the neighbour's own u σ vᵀ: a vector of the base model, without which that breaks.

To all intruders at once, as PEFT's mitigation scales them, ΔW of every matrix stands beside: W0 + λ ΔW.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from analysis.intruders import Settings as Counting
from analysis.spectra.changes import Change, Dense, LowRank, Matrix
from analysis.spectra.intruders.analyse import detector
from analysis.spectra.intruders.bounds import Numbers
from analysis.spectra.intruders.detection import Detection
from analysis.spectra.measures import change_factors, low_rank_svd
from analysis.spectra.weights import Pair

WIDER = 2
"""Where all of the top k are intruders, a neighbour is looked for among this many times k vectors."""
SHRUNK = "shrunk"
EQUAL = (SHRUNK, "span", "own")
"""Controls that remove as much as the intruder."""


@dataclass(frozen=True)
class Scaling:
    """What is multiplied by λ in one tuned matrix."""

    matrix: str
    """The base's name of the tensor."""
    removed: Change
    """D: what λ = 0 takes out."""
    indices: tuple[int, ...] = ()
    """Of the tuned matrix's singular vectors, where it is some of these."""
    sigmas: tuple[float, ...] = ()
    cos: tuple[float, ...] = ()
    """max |cos| of each left vector with the base."""
    cut: LowRank | None = None
    """ΔW, where the sum is cut back to its rank as PEFT's mitigation does."""

    def update(self, factor: float) -> Float[Tensor, "out in"]:
        """Return what λ = `factor` adds to W: (λ - 1) D."""
        if self.cut is None:
            return (factor - 1) * self.removed.dense()
        assert isinstance(self.removed, LowRank)
        return self._cut_back(self.cut, LowRank((factor - 1) * self.removed.b, self.removed.a))

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
    """What is scaled in one matrix; nothing where there is no intruder."""

    matrix: str
    kind: str
    layer: int | None
    intruders: Scaling | None = None
    neighbour: Scaling | None = None
    equal: dict[str, Scaling] = field(default_factory=dict)
    """Beside the top intruder by the names of `EQUAL`; beside all of them `SHRUNK` alone, ΔW as a whole."""


def choose(pair: Pair, counting: Counting, mode: str, reference: str, cut: bool) -> Iterator[Chosen]:
    """Yield each matrix of a pair with what is scaled in it."""
    for name in pair.names:
        loaded = pair.load(name)
        matrix = next((one for one in loaded if one.reference == reference), loaded[0])
        nothing = Chosen(matrix.name, matrix.kind, matrix.layer)
        if matrix.change.squared_norm() == 0:
            yield nothing
            continue
        found = detector(matrix, counting).detect(matrix.change)
        intruding = found.left.cos < counting.eps
        if mode == "mitigation":
            adapter = loaded[-1].change  # over a quantised base the last is the change of what was quantised
            back_to = adapter if cut and isinstance(adapter, LowRank) else None
            every = _scaling(matrix, found, intruding.nonzero()[0].tolist()) if intruding.any() else None
            whole = {SHRUNK: Scaling(matrix.name, adapter)}
            yield replace(nothing, intruders=every and replace(every, cut=back_to), equal=whole)
        elif not intruding.any():
            yield nothing
        else:
            top = int(intruding.argmax())
            intruder = _scaling(matrix, found, [top])
            beside = _neighbour(matrix, found, top, counting)
            equal = controls(loaded[-1], top, intruder.sigmas[0], counting.seed)
            yield replace(nothing, intruders=intruder, neighbour=beside, equal=equal)


def controls(matrix: Matrix, index: int, norm: float, seed: int) -> dict[str, Scaling]:
    """Return the controls of `EQUAL` to an intruder of this index and singular value, each of Frobenius norm `norm`.

    Over a quantised base ΔW is what was trained. The random direction is U a (V a)ᵀ of ΔW = U S Vᵀ and a unit vector a
    that depends on the seed and the matrix: what it takes out is a part of ΔW, as Σ a_i² s_i > 0.
    """
    change, parts = matrix.change, change_factors(matrix.change)
    at = min(index, len(parts.s) - 1)
    random = _unit(f"{seed} {matrix.name}", len(parts.s)).to(parts.u)
    return {
        SHRUNK: Scaling(matrix.name, _times(change, norm / change.squared_norm() ** 0.5)),
        "span": Scaling(matrix.name, _outer(parts.u @ random, parts.v @ random, norm)),
        "own": Scaling(matrix.name, _outer(parts.u[:, at], parts.v[:, at], norm)),
    }


def _times(change: Change, factor: float) -> Change:
    return Dense(factor * change.delta) if isinstance(change, Dense) else LowRank(factor * change.b, change.a)


def _outer(u: Float[Tensor, " out"], v: Float[Tensor, " in"], norm: float) -> LowRank:
    return LowRank((norm * u)[:, None].float(), v[None].float())


def _unit(stream: str, size: int) -> Float[Tensor, " size"]:
    number = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big") >> 1
    found = torch.randn(size, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    return found / found.norm()


def _neighbour(matrix: Matrix, found: Detection, top: int, counting: Counting) -> Scaling | None:
    """Return the nearest neighbour of the top intruder that is none, looked for among 2k vectors where k all are."""
    beside = neighbour(top, found.left.cos < counting.eps, _sigmas(found))
    wider = min(WIDER * counting.k, *matrix.shape)
    if beside is None and wider > counting.k:
        found = detector(matrix, replace(counting, k=wider)).detect(matrix.change)
        beside = neighbour(top, found.left.cos < counting.eps, _sigmas(found))
    return None if beside is None else _scaling(matrix, found, [beside])


def _sigmas(found: Detection) -> Numbers:
    sigmas: Numbers = found.top.s.double().cpu().numpy()
    return sigmas


def neighbour(top: int, intruding: NDArray[Any], s: Numbers) -> int | None:
    """Return the nearest index to `top` that is no intruder, of two as near the one whose σ is closer; None if none."""
    others = [index for index in range(len(s)) if not intruding[index]]
    return min(others, key=lambda index: (abs(index - top), abs(s[index] - s[top])), default=None)


def _scaling(matrix: Matrix, found: Detection, indices: list[int]) -> Scaling:
    u, s, v = (one.float() for one in (found.top.u[:, indices], found.top.s[indices], found.top.v[:, indices]))
    cos = tuple(found.left.cos[indices].tolist())
    return Scaling(matrix.name, LowRank(u * s, v.T), tuple(indices), tuple(s.tolist()), cos)
