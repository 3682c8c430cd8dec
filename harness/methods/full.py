"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from harness.methods.base import METHODS, DirectMethod

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from harness.models import Backbone


@METHODS.register("full")
@dataclass
class Full(DirectMethod):
    """Train every weight of the model."""

    learning_rate: float = 1.78e-4

    def trains(self, name: str, parameter: nn.Parameter, backbone: Backbone) -> bool:
        """Everything trains."""
        return True

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write a Hugging Face model folder, loadable by ``from_pretrained``."""
        from harness.distributed.shard import sharded
        from harness.distributed.state import save_pretrained

        if sharded(model):
            save_pretrained(model, folder)
            return
        # By the names in memory: a base read from old ones, such as LayerNorm.gamma, would be written back in them.
        cast("PreTrainedModel", model).save_pretrained(folder, save_original_format=False)

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read the folder's shards back into the model, every tensor of it."""
        from safetensors.torch import load_model

        from harness.distributed.shard import sharded
        from harness.methods.base import check_names

        if sharded(model):
            self._load_parts(model, folder)
            return
        missing: set[str] | None = None
        for shard in sorted(folder.glob("*.safetensors")):
            absent, unexpected = load_model(model, shard, strict=False)
            check_names(unexpected, [], shard)
            missing = set(absent) if missing is None else missing & set(absent)
        check_names(missing or [], [], folder)

    def _load_parts(self, model: nn.Module, folder: Path) -> None:
        """Read this process's part of every tensor."""
        from harness.distributed.state import names_in, read_tensors, untied
        from harness.methods.base import check_names

        tensors = untied(model)
        found: dict[str, None] = {}
        for shard in sorted(folder.glob("*.safetensors")):
            names = names_in(shard)
            found |= dict.fromkeys(names)
            read_tensors({name: tensors[name] for name in names if name in tensors}, shard)
        check_names(found, tensors, folder)
