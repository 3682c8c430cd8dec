"""An encoder's head for each task of a run: taken from a model, put into one, kept on disk."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.forgetting.subject import plain

Head = dict[str, Any]
"""The modules of a head by name; none for a decoder."""


def head_of(model: nn.Module, names: Iterable[str]) -> Head:
    """Return copies of the modules of the model's head."""
    return {name: deepcopy(_active(plain(model).get_submodule(name))) for name in names}


def put_head(model: nn.Module, head: Head, device: torch.device) -> None:
    """Put modules in the place of the model's head, inside of PEFT's wrapper where they are trained."""
    from peft.utils import ModulesToSaveWrapper

    for name, module in head.items():
        place = plain(model).get_submodule(name)
        if isinstance(place, ModulesToSaveWrapper):
            place.modules_to_save[place.active_adapters[0]] = module.to(device).requires_grad_(True)
        else:
            plain(model).set_submodule(name, module.to(device).requires_grad_(True))


def _active(module: Any) -> Any:
    """Return the trained copy inside of PEFT's wrapper, or the module itself."""
    from peft.utils import ModulesToSaveWrapper

    return module.modules_to_save[module.active_adapters[0]] if isinstance(module, ModulesToSaveWrapper) else module


def save_head(head: Head, file: Path) -> None:
    """Write the tensors of a head."""
    tensors = {
        f"{module}|{name}": tensor.detach().cpu().contiguous()
        for module, held in head.items()
        for name, tensor in held.state_dict().items()
    }
    save_file(tensors, file)


def load_head(head: Head, file: Path) -> None:
    """Read the tensors of a head back into its modules, in the dtype that they were trained in."""
    stored = load_file(file)
    for module, held in head.items():
        own = {name.split("|")[1]: tensor for name, tensor in stored.items() if name.startswith(f"{module}|")}
        held.load_state_dict(own, assign=True)
