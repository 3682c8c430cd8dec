"""Everything a cut run needs to go on exactly, in safetensors and JSON: no pickles.

The Trainer's own checkpoints keep optimiser, scheduler and random state as pickles, and a process
killed while writing leaves a folder that looks whole. Here a nested state becomes a tree of JSON with
references into one safetensors file, and a checkpoint is moved into place once complete.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.trainer import TRAINER_STATE_NAME

from harness.distributed import group
from harness.distributed.shard import rows_of
from harness.distributed.state import write_tensors
from harness.runtime import Runtime
from harness.storage.files import remove_partial

RESUME = "resume"
"""The folder of a checkpoint that holds what only resuming needs, apart from the trained state."""


def save_state(folder: Path, name: str, state: Any) -> None:
    """Write a nested structure of dicts, lists, tensors and plain values as ``name.json`` and ``name.safetensors``."""
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, tensors)
    if group.first():
        (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")
    write_tensors(tensors, folder / f"{name}.safetensors")


def load_state(folder: Path, name: str, parts: Sequence[Tensor] = ()) -> Any:
    """Read what `save_state` wrote; of an optimiser over tensors in parts, each process its part of their state."""
    tree = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    path = folder / f"{name}.safetensors"
    if not parts:
        return _unpack(tree, load_file(path))
    with safe_open(path, framework="pt") as file:
        state = _unpack(tree, {key: file.get_slice(key) for key in file.keys()})  # noqa: SIM118  # no mapping
        per_tensor = dict(enumerate(parts))
        for number, held in state["optimizer"]["state"].items():
            state["optimizer"]["state"][number] = {
                key: part_of(value, per_tensor[number]) for key, value in held.items()
            }
        return _read(state)


def part_of(stored: Any, tensor: Tensor) -> Any:
    """Return what belongs to this process of a stored tensor that is like a trained one, in parts as that is."""
    if not isinstance(tensor, DTensor) or not hasattr(stored, "get_shape") or stored.get_shape() != list(tensor.shape):
        return stored
    part = stored[rows_of(tensor)].to(tensor.to_local().device)
    layout: Any = {"shape": tensor.shape, "stride": tensor.stride()}
    return DTensor.from_local(part, tensor.device_mesh, tensor.placements, run_check=False, **layout)


def _read(value: Any) -> Any:
    """Return a nested state with every tensor read that was only looked up."""
    if isinstance(value, dict):
        return {key: _read(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_read(item) for item in value)
    return value[...] if hasattr(value, "get_shape") else value


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = str(len(tensors))
        # clone: safetensors refuses tensors that share memory
        tensors[key] = value.detach() if isinstance(value, DTensor) else value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in content}
    items = [_unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def random_state(runtime: Runtime) -> dict[str, Any]:
    """Return the state of every random number generator that training draws from."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [
            name,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
    }
    return state | {"cuda": [torch.cuda.get_rng_state(device) for device in runtime.generators]}


def restore_random_state(state: dict[str, Any], runtime: Runtime) -> None:
    """Set every generator that this process has to a state that `random_state` returned."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for device, kept in zip(runtime.generators, state["cuda"], strict=False):  # resumed on a CPU it has none
        torch.cuda.set_rng_state(kept, device)


def page_again(optimizer: Any) -> None:
    """Put a resumed paged optimiser's state back into pages: bitsandbytes loads it as plain tensors of the GPU."""
    inner = getattr(optimizer, "optimizer", optimizer)  # inside of accelerate's wrapper
    if not getattr(inner, "is_paged", False):
        return
    for parameter, state in inner.state.items():
        for name, held in state.items():
            if isinstance(held, Tensor) and held.shape == parameter.shape:
                state[name] = inner.get_state_buffer(parameter, dtype=held.dtype).copy_(held)


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run that can be resumed from; unfinished ones do not count."""
    found = [path for path in folder.glob("checkpoint-*") if (path / RESUME / "progress.json").is_file()]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step a checkpoint was taken after."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def prune(folder: Path, newest: Path | None, keep: bool) -> None:
    """Remove checkpoints older than `newest`, or where they are kept, what only resuming needs of them."""
    for path in folder.glob("checkpoint-*"):
        if path == newest:
            continue
        if keep:
            shutil.rmtree(path / RESUME, ignore_errors=True)
            (path / TRAINER_STATE_NAME).unlink(missing_ok=True)
        else:
            shutil.rmtree(path, ignore_errors=True)


def finish_checkpoints(folder: Path, keep: bool) -> None:
    """After a run remove its checkpoints, or where they are kept, what only resuming needed."""
    remove_partial(folder)
    prune(folder, None, keep)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
