"""A base and a tuned model → (name, W0, ΔW), one matrix in memory at a time, always out_features × in_features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from analysis.records.naming import Names, Role, kinds, layer_of, natural, role_of, transposed
from analysis.spectra.adapters import Adapter
from analysis.spectra.changes import Change, Dense, LowRank, Matrix
from analysis.spectra.checkpoints import Checkpoint
from analysis.spectra.quantised import Quantisation
from harness.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Wanted:
    """Which matrices to read."""

    modules: tuple[str, ...] = ()
    """Parts of names; empty for every linear layer of the blocks."""
    embeddings: bool = False
    heads: bool = False

    def includes(self, name: str, role: Role | None) -> bool:
        """Return whether a weight of this name and role is wanted."""
        roles = {Role.linear: True, Role.embedding: self.embeddings, Role.head: self.heads, None: False}
        return roles[role] and (not self.modules or any(part in name for part in self.modules))


@dataclass(frozen=True)
class Pair:
    """A base and a tuned model on disk; small enough to send to another process."""

    base: Checkpoint
    tuned: Checkpoint | Adapter
    wanted: Wanted = Wanted()
    quantisation: Quantisation | None = None
    """How the base was quantised before the adapter was trained over it."""
    dtype: str | None = None
    """The dtype the base was loaded in for training, None for the one it is stored in."""
    vocabulary: bool = True
    """Whether embeddings and tied heads must fit too, though they are not measured."""
    start: Checkpoint | None = None
    """Where an adapter was trained over other weights than the base's: those that earlier tasks had left merged."""

    @cached_property
    def names(self) -> list[str]:
        """Return the base's names of the matrices that can differ, checked against the tuned model."""
        if self.vocabulary:
            _require_same_vocabulary(self)
        names = list(self._modules) if isinstance(self.tuned, Adapter) else self._full_names()
        if not names:
            raise ConfigError("modules", ",".join(self.wanted.modules), "names no matrix of the model")
        return sorted(names, key=natural)

    @cached_property
    def unchanged(self) -> int:
        """Return how many wanted matrices an adapter leaves as they were."""
        return len(self._wanted_names()) - len(self.names)

    def _wanted_names(self) -> list[str]:
        shapes = self.base.shapes
        return [name for name, shape in shapes.items() if self.wanted.includes(name, role_of(name, shape))]

    @cached_property
    def _kinds(self) -> dict[str, str]:
        return kinds(name for name, shape in self.base.shapes.items() if role_of(name, shape))

    @cached_property
    def _tuned_names(self) -> Names:
        assert isinstance(self.tuned, Checkpoint)
        return Names(self.tuned.shapes)

    @cached_property
    def _start_names(self) -> Names:
        assert self.start is not None
        return Names(self.start.shapes)

    def _full_names(self) -> list[str]:
        """Return the wanted names of a full checkpoint; each block's matrix must be in both, in one shape."""
        found = Names(self.base.shapes)
        assert isinstance(self.tuned, Checkpoint)
        for name, shape in self.tuned.shapes.items():
            if role_of(name, shape) is Role.linear and found.find(name) is None:
                raise ConfigError("tuned", self.tuned.folder, f"has {name}, which the base lacks")
        names = []
        for name in self._wanted_names():
            other = self._tuned_names.find(name)
            if other is not None:
                _require_shape(self.tuned, other, self.tuned.shapes[other], self.base.shapes[name])
                names.append(name)
            elif role_of(name, self.base.shapes[name]) is Role.linear:
                raise ConfigError("tuned", self.tuned.folder, f"lacks {name}, which the base has")
        return names

    @cached_property
    def _modules(self) -> dict[str, str]:
        """Return base's name → adapter's module; each must be a matrix of the base in the same shape."""
        assert isinstance(self.tuned, Adapter)
        _ = self.tuned.config
        found, modules = Names(self.base.shapes), {}
        for module in self.tuned.parts:
            name = found.find(f"{module}.weight")
            if name is None:
                if self.tuned.saved_whole(module):
                    continue  # a new head, which the base never had
                raise ConfigError(
                    "tuned", self.tuned.folder, f"adapts {module}, which the base lacks: another base's adapter"
                )
            shape = self.base.shapes[name]
            if self.wanted.includes(name, role_of(name, shape)):
                expected = shape[::-1] if self._transposed(name) else shape
                _require_shape(self.tuned, module, self._adapter_shape(module, name), expected)
                modules[name] = module
        return modules

    def _adapter_shape(self, module: str, name: str) -> tuple[int, ...]:
        assert isinstance(self.tuned, Adapter)
        shape = self.tuned.shape(module)
        return shape[::-1] if self.tuned.saved_whole(module) and self._transposed(name) else shape

    def _transposed(self, name: str) -> bool:
        return transposed(name, str(self.base.config.get("model_type", "")))

    def __iter__(self) -> Iterator[Matrix]:
        """Yield every matrix in turn; over a quantised base each against both references."""
        for name in self.names:
            yield from self.load(name)

    def load(self, name: str) -> list[Matrix]:
        """Read one matrix, against W0 and where the base was quantised also against dequant(quant(W0))."""
        stored = self._stored(name)
        base, dtype = self._turned(name, stored), self.base.dtype(name)
        kind, layer = self._kinds[name], layer_of(name)
        if self.quantisation is None or role_of(name, self.base.shapes[name]) is not Role.linear:
            return [Matrix(name, kind, layer, base, self._change(name, base), dtype)]
        quantised = self._turned(name, self.quantisation(stored))
        change, floor = self._change(name, quantised), Dense(quantised - base)
        whole = Dense(floor.delta + change.dense())
        return [
            Matrix(name, kind, layer, base, whole, dtype, floor=floor),
            Matrix(name, kind, layer, quantised, change, dtype, "dequantised"),
        ]

    def _stored(self, name: str) -> Tensor:
        """Return W0 in its layout on disk, rounded as it was when loaded for training."""
        import torch

        weight = self.base.tensor(name)
        return weight if self.dtype is None else weight.to(getattr(torch, self.dtype)).float()

    def _turned(self, name: str, weight: Tensor) -> Tensor:
        return weight.T.contiguous() if self._transposed(name) else weight

    def _change(self, name: str, base: Tensor) -> Change:
        if isinstance(self.tuned, Adapter):
            module = self._modules[name]
            if self.tuned.saved_whole(module):
                tensor = self.tuned.checkpoint.tensor(self.tuned.parts[module]["weight"])
                return Dense(self._turned(name, tensor) - base)
            if self.start is None:
                return self.tuned.change(module, base)
            start = self._turned(name, self.start.tensor(str(self._start_names.find(name))))
            return Dense(start - base + self.tuned.change(module, start).dense())
        return Dense(self._turned(name, self.tuned.tensor(str(self._tuned_names.find(name)))) - base)


def _require_shape(tuned: Checkpoint | Adapter, name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise ConfigError("tuned", tuned.folder, f"{name} is {_size(got)}, the base's is {_size(expected)}")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _require_same_vocabulary(pair: Pair) -> None:
    """Refuse a resized vocabulary and a head that is tied on one side only."""
    if isinstance(pair.tuned, Adapter):
        return
    base, tuned = pair.base.shapes, pair.tuned.shapes
    hint = "vocabulary=false compares the blocks all the same"
    for name, shape in base.items():
        other = pair._tuned_names.find(name) if role_of(name, shape) is Role.embedding else None
        if other is not None and tuned[other] != shape:
            sizes = f"{_size(tuned[other])}, the base's is {_size(shape)}"
            raise ConfigError("tuned", pair.tuned.folder, f"{other} is {sizes}: a resized vocabulary; {hint}")
    heads = [_own_head(pair.base), _own_head(pair.tuned)]
    if _generates(pair.base) and _generates(pair.tuned) and (heads[0] is None) != (heads[1] is None):
        side = "base" if heads[0] is None else "tuned model"
        raise ConfigError(
            "tuned", pair.tuned.folder, f"{heads[0] or heads[1]} is tied to the embedding in the {side} only; {hint}"
        )


def _own_head(checkpoint: Checkpoint) -> str | None:
    """Return the name of an output matrix that is not the embedding's, None where it is tied or absent."""
    head = next((name for name in checkpoint.shapes if name.endswith("lm_head.weight")), None)
    return None if checkpoint.config.get("tie_word_embeddings") else head


def _generates(checkpoint: Checkpoint) -> bool:
    """Return whether the architecture has an output matrix at all."""
    names = checkpoint.config.get("architectures") or []
    return any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)


__all__ = ["Adapter", "Change", "Checkpoint", "Dense", "LowRank", "Matrix", "Pair", "Quantisation", "Wanted"]
