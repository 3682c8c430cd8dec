"""The loss without logits equals the loss with them, in value and in every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from harness.compose import compose
from harness.objectives.fused import AVAILABLE, output_layer, states, summed_cross_entropy
from harness.objectives.likelihood import Likelihood
from harness.objectives.next_token import NextToken
from harness.planning.words import StandIn

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs torch 2.13")
CONFIG = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def decoder(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG, tie_word_embeddings=tied)).double()
    return model.train()


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 96, (3, 40), generator=generator)
    labels = ids.clone()
    labels[:, 0] = labels[1, 30:] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def objective() -> NextToken:
    words: Any = StandIn()
    return NextToken(compose("task=openwebtext", "tracker=none").task, words)


@pytest.mark.parametrize("tied", [True, False])
def test_value_and_gradients_are_those_of_logits_in_float64(tied: bool) -> None:
    fused, plain, given = decoder(tied), decoder(tied), batch()
    loss = objective().training_loss(fused, given, fused=True)
    logits = plain(given["input_ids"]).logits[:, :-1]
    expected = F.cross_entropy(logits.flatten(0, 1), given["labels"][:, 1:].flatten(), reduction="sum")
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for (name, found), wanted in zip(fused.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_switched_off_it_is_the_loss_of_plain_logits() -> None:
    model, given = decoder(True), batch()
    off = objective().training_loss(model, given, fused=False)
    assert torch.equal(off, objective().loss(model, given))
    torch.testing.assert_close(objective().training_loss(model, given, fused=True).float(), off)


def test_a_hand_written_sum_is_met() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 8, dtype=torch.float64), torch.randn(40, 8, dtype=torch.float64)
    targets = torch.randint(0, 40, (50,))
    targets[::7] = -100
    kept = targets != -100
    logits = (hidden @ weight.T)[kept]
    expected = (logits.logsumexp(-1) - logits.gather(1, targets[kept, None])[:, 0]).sum()
    torch.testing.assert_close(summed_cross_entropy(hidden, weight, targets, -100), expected, rtol=1e-12, atol=0)


def test_the_largest_tensor_has_no_vocabulary() -> None:
    """The fused way makes no tensor of positions x vocabulary, which plain logits are."""
    from harness.planning.live import LiveMemory

    peaks = {}
    for fused in (True, False):
        model, live = decoder(True), LiveMemory()
        large = {name: value.repeat(8, 1) for name, value in batch().items()}
        with live:
            objective().training_loss(model, large, fused).backward()
        peaks[fused] = live.peak.total
    assert peaks[True] < peaks[False]


def test_logits_that_the_model_changes_are_not_replaced() -> None:
    model = decoder(False)
    layer = output_layer(model)
    assert layer is not None
    assert states(lambda: 0.5 * model(batch()["input_ids"]).logits, layer) is None
    assert model(batch()["input_ids"]).logits.shape[-1] == 96, "the layer computes again"


def test_an_output_layer_with_a_bias_or_an_adapter_computes_itself() -> None:
    model = decoder(False)
    model.lm_head = torch.nn.Linear(32, 96, bias=True)
    assert output_layer(model) is None


@pytest.mark.parametrize("answers", [2, 40])
def test_the_loss_of_answers_is_that_of_plain_logits(answers: int) -> None:
    """Few answer positions go through one flat product, more than the states are wide through none."""
    words: Any = StandIn()
    task = Likelihood(compose("task=trec", "tracker=none").task, words)  # type: ignore[arg-type]
    rows = [(3, answers), (7, answers - 1), (5, 1)]
    given = task.collate([{"prompt": [*range(1, p + 1)], "answer": [*range(9, 9 + a)]} for p, a in rows])
    fused, plain = decoder(True), decoder(True)
    loss, expected = task.training_loss(fused, given, fused=True), task.loss(plain, given)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss.float(), expected.float(), rtol=1e-6, atol=0)
    for (name, found), wanted in zip(fused.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-6, msg=name)
