"""The trained state of several processes, saved as one process saves it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from harness.distributed import group

if TYPE_CHECKING:
    from harness.methods.base import Method


def save_trained(method: Method, model: nn.Module, folder: Path) -> None:
    """Write the trained state on the first process; every process must come here."""
    if group.first():
        method.save(model, folder)
