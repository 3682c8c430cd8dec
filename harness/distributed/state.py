"""State that is in parts, written as one plain safetensors file and read back a part by each process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from harness.distributed import group
from harness.distributed.shard import plain_class, rows_of, settle, whole

if TYPE_CHECKING:
    from harness.methods.base import Method

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""safetensors' names of dtypes."""


def save_trained(method: Method, model: nn.Module, folder: Path) -> None:
    """Write the trained state on the first process; every process must come here."""
    settle(model)
    if group.first() or in_parts(parameter for parameter in model.parameters() if parameter.requires_grad):
        method.save(model, folder)


def in_parts(tensors: Any) -> bool:
    """Return whether any of the tensors is in parts."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as one safetensors file, on the first process; where some are in parts every process must come.

    safetensors wants all tensors in memory at once. Those in parts are gathered and written one by one instead, so
    that the first process holds the largest of them and not the model.
    """
    if in_parts(tensors.values()):
        _stream(tensors, path)
    elif group.first():
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)


def _stream(tensors: Mapping[str, Tensor], path: Path) -> None:
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    file = path.open("wb") if group.first() else None
    if file is not None:
        file.write(_header({name: tensors[name] for name in order}))
    try:
        for name in order:
            _append(whole(tensors[name].detach()), file)
    finally:
        if file is not None:
            file.close()


def _append(tensor: Tensor, file: BinaryIO | None) -> None:
    if file is not None:
        numbers: Any = tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()
        file.write(memoryview(numbers))  # not tobytes, which would copy them


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the head of a safetensors file: the length of a JSON text, then the text, padded to eight bytes."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy a file's tensors of these names into `tensors`; each process reads its rows of those in parts."""
    with safe_open(path, framework="pt") as file, torch.no_grad():
        for name, tensor in tensors.items():
            copy_rows(tensor, file.get_slice(name))


def copy_rows(tensor: Tensor, stored: Any) -> None:
    """Copy into a tensor what a file has of it."""
    if isinstance(tensor, DTensor):
        tensor.to_local().copy_(stored[rows_of(tensor)])
    else:
        tensor.copy_(stored[...])


def names_in(path: Path) -> list[str]:
    """Return the names of a safetensors file's tensors."""
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def save_pretrained(model: Any, folder: Path) -> None:
    """Write a model in parts as a Hugging Face folder with one file of weights, as ``save_pretrained`` names it."""
    folder.mkdir(parents=True, exist_ok=True)
    if group.first():
        model.config.architectures = [plain_class(model).__name__]
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
    write_tensors(untied(model), folder / "model.safetensors")


def untied(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's tensors by name, those that several names share once, by the first."""
    shared: set[int] = set()
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in shared:
            found[name] = parameter.detach()
            shared.add(id(parameter))
    kept = set(model.state_dict())
    return found | {name: buffer for name, buffer in model.named_buffers() if name in kept}
