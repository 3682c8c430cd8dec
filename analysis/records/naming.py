"""What a tensor is by its name: a linear layer of a block, an embedding, a head; and its name in another checkpoint."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from enum import Enum

EMBEDDING = re.compile(r"embed|(^|\.)(wte|wpe)\.|relative_attention_bias|rel_pos")
BLOCK = re.compile(r"(?:^|\.)(\d+)\.(.+)\.weight$")
CONV1D = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
"""Model types whose linear layers are Conv1D, stored (in_features, out_features)."""
CONV1D_LAYERS = {"c_attn", "c_proj", "c_fc", "q_attn"}


class Role(Enum):
    """What a weight belongs to."""

    linear = "linear"
    """A linear layer of a block: what is measured."""
    embedding = "embedding"
    head = "head"
    """Any other matrix outside the blocks, such as ``lm_head``, ``classifier`` or ``pooler.dense``."""


def role_of(name: str, shape: tuple[int, ...]) -> Role | None:
    """Return a weight's role; None for biases, norms and whatever has not two dimensions."""
    if len(shape) != 2 or not name.endswith(".weight"):
        return None
    if EMBEDDING.search(name):
        return Role.embedding
    return Role.linear if BLOCK.search(name) else Role.head


def layer_of(name: str) -> int | None:
    """Return the number of the block a weight is in."""
    found = BLOCK.search(name)
    return int(found[1]) if found else None


def kinds(names: Iterable[str]) -> dict[str, str]:
    """Return each weight's module kind: ``q_proj``; ``attention.output.dense`` where ``dense`` says too little."""
    tails = {name: found[2] if (found := BLOCK.search(name)) else name.removesuffix(".weight") for name in names}
    by_last = defaultdict(set)
    for tail in tails.values():
        by_last[tail.rpartition(".")[2]].add(tail)
    return {name: last if len(by_last[last := tail.rpartition(".")[2]]) == 1 else tail for name, tail in tails.items()}


def transposed(name: str, model_type: str) -> bool:
    """Return whether a weight is a Conv1D's, stored (in_features, out_features)."""
    return model_type in CONV1D and name.split(".")[-2] in CONV1D_LAYERS


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sorting key that puts layer 2 before layer 10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in name.split("."))


class Names:
    """The names of one checkpoint, found by those of another that has a longer or shorter prefix.

    A bare encoder calls ``encoder.layer.0…`` what a classifier calls ``bert.encoder.layer.0…``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._by_suffix: dict[str, list[str]] = defaultdict(list)
        for name in self._names:
            parts = name.split(".")
            for start in range(1, len(parts)):
                self._by_suffix[".".join(parts[start:])].append(name)

    def find(self, name: str) -> str | None:
        """Return the name that equals `name` but for a prefix, None where none or several do."""
        parts = name.split(".")
        # The last two parts, "q_proj.weight", are in every layer: a name needs more than those.
        for start in range(max(1, len(parts) - 2)):
            if (suffix := ".".join(parts[start:])) in self._names:
                return suffix
        longer = self._by_suffix.get(name, [])
        return longer[0] if len(longer) == 1 else None
