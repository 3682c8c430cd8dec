"""PEFT adapter folders of the LoRA family, turned into the change of each weight they stand for."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.spectra.changes import Change, Dense, LowRank
from analysis.spectra.checkpoints import Checkpoint
from harness.errors import ConfigError, NotApplicable

PART = re.compile(r"\.lora_(?:(A|B)(?:\.[^.]+)?\.weight|embedding_(A|B)(?:\.[^.]+)?|magnitude_vector(?:\..+)?)$")
PROMPTS = {
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "CPT",
    "ADAPTION_PROMPT",
    "CARTRIDGE",
}
VARIANTS = ("layer_replication", "target_parameters", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config")
"""Fields of LoRA's configuration under which W0 + s B A is not what the model computes."""
REPRODUCIBLE = ("pissa", "olora")
"""Starts that move s B0 A0 out of W0 into the adapter, and can be computed again from W0."""
NOT_REPRODUCIBLE = ("pissa_niter", "corda", "lora_ga")
"""Starts that do so by random numbers or by data that the folder does not hold."""


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter folder: LoRA, rsLoRA, DoRA, whatever their start."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return ``adapter_config.json``; raise where its adapter has no ΔW, or none that can be computed."""
        path = self.folder / "adapter_config.json"
        try:
            config = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise ConfigError("tuned", path, "cannot be read; must be PEFT's adapter_config.json") from None
        _require_readable(config, self.folder)
        return config

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Return the adapter's tensors."""
        return Checkpoint(self.folder, "tuned")

    @cached_property
    def parts(self) -> dict[str, dict[str, str]]:
        """Return module → part (A, B, magnitude, weight) → tensor, of every module the adapter changes."""
        parts: dict[str, dict[str, str]] = {}
        for name in self.checkpoint.files:
            plain = name.removeprefix("base_model.model.")
            found = PART.search(plain)
            if found:
                part = found[1] or found[2] or "magnitude"
                parts.setdefault(plain[: found.start()], {})[part] = name
            elif plain.endswith(".weight") and len(self.checkpoint.shapes[name]) == 2:
                parts.setdefault(plain.removesuffix(".weight"), {})["weight"] = name  # a module saved whole
        _require_pairs(parts, self.folder)
        return parts

    @property
    def start(self) -> str:
        """Return the name of LoRA's start, empty for the usual B = 0."""
        return _start(self.config)

    def saved_whole(self, module: str) -> bool:
        """Return whether the adapter holds a module's own weight, as it does for a new head."""
        return "weight" in self.parts[module]

    def shape(self, module: str) -> tuple[int, ...]:
        """Return (out_features, in_features) of a module the adapter changes."""
        parts, shapes = self.parts[module], self.checkpoint.shapes
        if "weight" in parts:
            return shapes[parts["weight"]]
        out, inner = shapes[parts["B"]], shapes[parts["A"]]
        if len(out) != 2 or len(inner) != 2 or out[1] != inner[0]:
            raise ConfigError(
                "tuned", self.folder, f"{module}: lora_B {out} and lora_A {inner} are no update of a matrix"
            )
        return (inner[1], out[0]) if self._embedding(module) else (out[0], inner[1])

    def _embedding(self, module: str) -> bool:
        return ".lora_embedding_" in self.parts[module]["A"]

    def change(self, module: str, base: Float[Tensor, "out in"]) -> Change:
        """Return W - W0 of a module over the weight it is attached to, W0 or dequant(quant(W0))."""
        parts = self.parts[module]
        if "weight" in parts:
            return Dense(self.checkpoint.tensor(parts["weight"]) - base)
        update = self._update(module, base)
        if "magnitude" not in parts:
            return update
        return dora(base, update, self.checkpoint.tensor(parts["magnitude"]).flatten())

    def _update(self, module: str, base: Float[Tensor, "out in"]) -> LowRank:
        b, a = (self.checkpoint.tensor(self.parts[module][part]) for part in "BA")
        scale = self.scale(module, a.shape[0])
        if self._embedding(module):  # an embedding is stored (vocabulary, width), its update the other way round
            b, a = a.T, b.T
        moved = moved_out(base, a.shape[0], self.start) if self.start in REPRODUCIBLE else None
        if moved is None:
            return LowRank(scale * b, a)
        b0, a0 = moved
        weight = scale if self.start == "olora" else 1.0  # PiSSA divides its singular values by the scale itself
        return LowRank(torch.cat([scale * b, -weight * b0], 1), torch.cat([a, a0]))

    def scale(self, module: str, rank: int) -> float:
        """Return alpha / r, or alpha / √r for rsLoRA, by the module's own r and alpha where patterns give them."""
        alpha = _by_pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        stated = _by_pattern(self.config.get("rank_pattern"), module, self.config["r"])
        if stated != rank:
            raise ConfigError(
                "tuned", self.folder, f"{module}: lora_A has rank {rank}, its configuration says {stated:g}"
            )
        return float(alpha / rank**0.5 if self.config.get("use_rslora") else alpha / rank)


def dora(base: Float[Tensor, "out in"], update: LowRank, magnitude: Float[Tensor, " out"]) -> Dense:
    """Return m (W0 + s B A) / ‖W0 + s B A‖ - W0, norms over each output's row (DoRA, arXiv 2402.09353, equation 5)."""
    direction = base + update.dense()
    return Dense(direction * (magnitude / direction.norm(dim=1))[:, None] - base)


def moved_out(
    base: Float[Tensor, "out in"], rank: int, start: str
) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in"]]:
    """Return the factors of what a start takes out of W0: PiSSA's top r singular triplets, OLoRA's first r of Q R.

    Seen in PEFT 0.21: PiSSA's s B0 A0 is U_r S_r V_rᵀ whatever the scale s, OLoRA's is s Q_r R_r.
    """
    if start == "pissa":
        u, s, vh = torch.linalg.svd(base, full_matrices=False)
        return u[:, :rank] * s[:rank], vh[:rank]
    q, r = torch.linalg.qr(base)
    return q[:, :rank], r[:rank]


def _by_pattern(patterns: dict[str, float] | None, module: str, default: float) -> float:
    """Return the first pattern's value that a module's name ends with, as PEFT matches them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _start(config: dict[str, Any]) -> str:
    start = config.get("init_lora_weights")
    return start.lower() if isinstance(start, str) else ""


def _require_readable(config: dict[str, Any], folder: Path) -> None:
    kind = str(config.get("peft_type"))
    if kind in PROMPTS:
        raise NotApplicable(f"{kind} changes no weight matrix: it adds inputs or keys and values")
    merge = "merge it into its base, and give that folder as tuned"
    if kind != "LORA":
        raise NotApplicable(f"a {kind} adapter is not read as a weight change; {merge}")
    for field in VARIANTS:
        if config.get(field):
            raise ConfigError("tuned", folder, f"its {field} is not read; {merge}")
    if _start(config).startswith(NOT_REPRODUCIBLE):
        raise ConfigError("tuned", folder, f"what {_start(config)} took out of W0 cannot be computed again; {merge}")


def _require_pairs(parts: dict[str, dict[str, str]], folder: Path) -> None:
    """Refuse an A without its B."""
    for module, found in parts.items():
        if "weight" not in found and not {"A", "B"} <= set(found):
            missing = "lora_A" if "A" not in found else "lora_B"
            raise ConfigError("tuned", folder, f"{module} has no {missing}")
    if not any("A" in found for found in parts.values()):
        raise ConfigError("tuned", folder, "its tensors hold no lora_A and lora_B")
