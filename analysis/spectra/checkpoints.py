"""Safetensors folders read one tensor at a time: one file or many shards, 4-bit storage included, nothing unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import AssetError, ConfigError, first_line

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
PACKED = ".quant_state.bitsandbytes__"
"""What bitsandbytes adds to a weight's name for the JSON that says how its 4 bits are to be read."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder of safetensors; tensors are read when asked for and not kept."""

    folder: Path
    key: str
    """The option that named it, for messages: ``base`` or ``tuned``."""

    @cached_property
    def files(self) -> dict[str, Path]:
        """Return tensor name → file; raise :class:`ConfigError` where a shard is missing."""
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            return self._sharded(index)
        paths = sorted(self.folder.glob("*.safetensors"))
        if not paths:
            raise ConfigError(self.key, self.folder, f"has no safetensors{self._pickles()}")
        return {name: path for path in paths for name in self._names(path)}

    def _sharded(self, index: Path) -> dict[str, Path]:
        try:
            shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(self.key, index, "is damaged; it must be JSON with a weight_map") from None
        for name, shard in shards.items():
            if not (self.folder / shard).is_file():
                raise ConfigError(self.key, self.folder, f"lacks the shard {shard}, which holds {name}")
        present = {file: set(self._names(self.folder / file)) for file in set(shards.values())}
        for name, shard in shards.items():
            if name not in present[shard]:
                raise ConfigError(self.key, self.folder / shard, f"does not hold {name}, as its index says")
        return {name: self.folder / shard for name, shard in shards.items()}

    def _pickles(self) -> str:
        found = sorted(path.name for path in self.folder.glob("*") if path.suffix in PICKLES)
        return f", only {found[0]}: pickled weights are not read" if found else ""

    def _names(self, path: Path) -> list[str]:
        with self._open(path) as file:
            return list(file.keys())

    def _open(self, path: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise AssetError(f"{self.key}={path}: cannot be read: {first_line(error)}") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return the folder's ``config.json``, empty where there is none."""
        path = self.folder / "config.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor, of 4-bit ones the shape they stand for."""
        shapes: dict[str, tuple[int, ...]] = {}
        for path in sorted(set(self.files.values())):
            with self._open(path) as file:
                for name in (name for name in file.keys() if name in self.files):  # noqa: SIM118  # no dict
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        for name, state in self._packed.items():
            shapes[name] = tuple(self._packed_state(state)["shape"])
        return shapes

    @cached_property
    def _packed(self) -> dict[str, str]:
        """Return 4-bit weight → the tensor that says how to read it."""
        return {name.partition(PACKED)[0]: name for name in self.files if PACKED in name}

    def _packed_state(self, state: str) -> dict[str, Any]:
        return dict(json.loads(bytes(self._read(state).tolist())))

    def _read(self, name: str) -> Tensor:
        with self._open(self.files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as float32, dequantised where it is stored in 4 bits; refuse NaN and infinity."""
        import torch

        stored = self._dequantised(name) if name in self._packed else self._read(name)
        if not stored.is_floating_point() or stored.element_size() < 2:
            raise ConfigError(self.key, self.folder, f"{name} is stored as {stored.dtype}, which is not read")
        value = stored.float()
        # One sum is NaN or infinite if any entry is, at the cost of one pass and no mask.
        if not bool(torch.isfinite(value.sum(dtype=torch.float64))):
            raise ConfigError(self.key, self.folder, f"{name} holds NaN or infinite weights")
        return value

    def dtype(self, name: str) -> str:
        """Return the name of the dtype a tensor is stored in."""
        return "nf4" if name in self._packed else str(self._read(name).dtype).removeprefix("torch.")

    def _dequantised(self, name: str) -> Tensor:
        from bitsandbytes.functional import QuantState, dequantize_4bit

        parts = {key: self._read(key) for key in self.files if key.startswith(f"{name}.")}
        state = QuantState.from_dict(parts, device="cpu")
        restored: Tensor = dequantize_4bit(self._read(name), state)
        return restored
