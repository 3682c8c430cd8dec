"""A weight change as factors or as a dense matrix, and the matrix it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """ΔW = B A, kept as its factors: at 4096 × 4096 and rank 16 a 128th of the numbers."""

    b: Float[Tensor, "out rank"]
    a: Float[Tensor, "rank in"]

    def dense(self) -> Float[Tensor, "out in"]:
        """Return B A."""
        return self.b @ self.a

    def squared_norm(self) -> float:
        """Return ‖B A‖_F² = tr(BᵀB A Aᵀ), from two rank × rank products."""
        b, a = self.b.double(), self.a.double()
        return max(0.0, float(((b.T @ b) * (a @ a.T)).sum()))

    def times(self, right: Float[Tensor, "in n"]) -> Float[Tensor, "out n"]:
        """Return ΔW X."""
        return self.b @ (self.a @ right)

    def transposed_times(self, left: Float[Tensor, "out n"]) -> Float[Tensor, "in n"]:
        """Return ΔWᵀ X."""
        return self.a.T @ (self.b.T @ left)

    def to(self, device: torch.device) -> LowRank:
        """Return the change on a device."""
        return LowRank(self.b.to(device), self.a.to(device))

    def double(self) -> LowRank:
        """Return the factors in double precision."""
        return LowRank(self.b.double(), self.a.double())

    @property
    def T(self) -> LowRank:  # noqa: N802, as torch calls it
        """Return ΔWᵀ."""
        return LowRank(self.a.T, self.b.T)


@dataclass(frozen=True)
class Dense:
    """ΔW as it is."""

    delta: Float[Tensor, "out in"]

    def dense(self) -> Float[Tensor, "out in"]:
        """Return ΔW."""
        return self.delta

    def squared_norm(self) -> float:
        """Return ‖ΔW‖_F²."""
        return float(self.delta.double().square().sum())

    def times(self, right: Float[Tensor, "in n"]) -> Float[Tensor, "out n"]:
        """Return ΔW X."""
        return self.delta @ right

    def transposed_times(self, left: Float[Tensor, "out n"]) -> Float[Tensor, "in n"]:
        """Return ΔWᵀ X."""
        return self.delta.T @ left

    def to(self, device: torch.device) -> Dense:
        """Return the change on a device."""
        return Dense(self.delta.to(device))

    def double(self) -> Dense:
        """Return the change in double precision."""
        return Dense(self.delta.double())

    @property
    def T(self) -> Dense:  # noqa: N802, as torch calls it
        """Return ΔWᵀ."""
        return Dense(self.delta.T)


Change: TypeAlias = LowRank | Dense


@dataclass(frozen=True)
class Matrix:
    """A weight before and after, as out_features × in_features whatever its layout on disk."""

    name: str
    """The base's name of the tensor."""
    kind: str
    """The module kind, such as ``q_proj``."""
    layer: int | None
    """The number of the block; None for embeddings and heads."""
    base: Float[Tensor, "out in"]
    """W0, or dequant(quant(W0)) where `reference` says so."""
    change: Change
    dtype: str = "float32"
    """What the base is stored in."""
    reference: str = "w0"
    """What `base` is: ``w0``, or ``dequantised`` for dequant(quant(W0))."""
    floor: Dense | None = None
    """dequant(quant(W0)) - W0 where the base was quantised: the third null control."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (out_features, in_features)."""
        return self.base.shape[0], self.base.shape[1]

    def to(self, device: torch.device) -> Matrix:
        """Return the matrix on a device."""
        floor = None if self.floor is None else self.floor.to(device)
        return replace(self, base=self.base.to(device), change=self.change.to(device), floor=floor)
