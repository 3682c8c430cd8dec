"""LoftQ (Li et al. 2023, arXiv 2310.08659): a start of LoRA that makes up for a base in four bits."""

from __future__ import annotations

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft.tuners.lora import LoraLayer
from torch import nn


@torch.no_grad()
def start_from_quantised(model: nn.Module, adapter_name: str = "default") -> None:
    """Replace each W0 under LoRA by Q = NF4(W0), and start B A as the best rank-r approximation of W0 - Q.

    One iteration of the paper's algorithm 1: scale · B A = U_r S_r V_r of the singular value decomposition.
    PEFT's own version needs a GPU, and forgets the scale alpha / r, by which B A is multiplied later.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and adapter_name in layer.lora_A:
            weight = layer.get_base_layer().weight
            quantised = nf4(weight)
            missing = (weight - quantised).float()
            # GPT-2's Conv1D stores (in_features, out_features).
            down, up = halves(missing.T if layer.fan_in_fan_out else missing, layer.r[adapter_name])
            layer.lora_A[adapter_name].weight.copy_(down)
            layer.lora_B[adapter_name].weight.copy_(up / layer.scaling[adapter_name])
            weight.copy_(quantised)


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """Return the values that `weight` has after quantisation to NF4 in blocks of 64, in its own dtype."""
    quantised, state = quantize_4bit(weight.contiguous(), blocksize=64, quant_type="nf4")
    restored: torch.Tensor = dequantize_4bit(quantised, state).to(weight)
    return restored


def halves(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A (rank, in_features) and B (out_features, rank) whose product is nearest to `matrix`."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * vh[:rank], u[:, :rank] * root
