"""Selective checkpointing: the same training to the bit, fewer tensors held, fewer products computed again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint
from torch.utils.flop_counter import FlopCounterMode

from harness.compose import compose
from harness.errors import ConfigError
from harness.training.recompute import ATEN, contexts, kept


def product(inputs: int, outputs: int) -> CheckpointPolicy:
    return kept(None, ATEN.mm.default, torch.empty(3, inputs), torch.empty(inputs, outputs))


def test_products_that_are_not_square_and_attention_are_kept_and_the_rest_is_not() -> None:
    save, again = CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE
    assert [product(576, 1536), product(1536, 576), product(576, 192)] == [save, save, save]
    assert [product(576, 576), product(8, 576), product(576, 8)] == [again, again, again]
    assert kept(None, ATEN._scaled_dot_product_flash_attention_for_cpu.default) == save
    assert kept(None, ATEN.silu.default, torch.empty(3)) == again


class Layer(nn.Module):
    """A gated feed-forward part with dropout, as a Llama's."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(128, 512), nn.Linear(128, 512), nn.Linear(512, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dropped = nn.functional.dropout(nn.functional.silu(self.gate(x)) * self.up(x), 0.3, training=True)
        return x + self.down(dropped)


def gradients(layer: Layer, x: torch.Tensor, **options: Any) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """Return the loss, the gradients, and the operations of forward and backward pass."""
    layer.zero_grad()
    torch.manual_seed(3)
    with FlopCounterMode(display=False) as counter:
        out = checkpoint(layer, x, use_reentrant=False, **options) if options else layer(x)
        loss = out.square().mean()
        loss.backward()
    return loss.detach(), [p.grad.clone() for p in layer.parameters() if p.grad is not None], counter.get_total_flops()


def test_gradients_are_those_of_no_checkpointing_at_the_cost_of_no_product() -> None:
    torch.manual_seed(0)
    layer, x = Layer(), torch.randn(64, 128, requires_grad=True)
    plain, selective = gradients(layer, x), gradients(layer, x, context_fn=contexts)
    whole = gradients(layer, x, determinism_check="none")
    assert torch.equal(plain[0], selective[0])
    assert all(torch.equal(one, other) for one, other in zip(plain[1], selective[1], strict=True))
    assert selective[2] == plain[2]
    assert whole[2] == plain[2] + 2 * 2 * 64 * 128 * 512  # gate and up once more; the last product is not needed


def test_both_ways_of_checkpointing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.selective_checkpointing=True: .*one of the two"):
        compose("train.gradient_checkpointing=true", "train.selective_checkpointing=true")
