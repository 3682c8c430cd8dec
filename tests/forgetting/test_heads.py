"""Which checkpoints have a masked-language-model head, and what is a failure instead; heads that stay in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from harness.compose import compose
from harness.errors import NotApplicable
from harness.execution import session
from harness.forgetting import heads
from harness.forgetting.heads import OutputHead, masked_model, no_masked_head
from harness.storage.assets import Files

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def forget_checkpoints() -> Iterator[None]:
    heads._HEADLESS.clear()
    yield
    heads._HEADLESS.clear()


def files_of(model: str) -> Files:
    return session.fetch(compose(f"model={model}", "forgetting=none"))[0]


def test_architecture_without_a_masked_head_is_told_before_loading(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoModelForMaskedLM, "from_pretrained", None)
    with pytest.raises(NotApplicable, match="transformers has none for llama"):
        masked_model(Files(llama_folder, {}, "a test"))


@pytest.mark.slow
def test_checkpoint_without_the_weights_is_not_applicable() -> None:
    assert no_masked_head(files_of("bert_tiny")) is None
    reason = no_masked_head(files_of("minilm_l6"))
    assert reason is not None and reason.startswith("the checkpoint has no masked-language-model head: it lacks ")


@pytest.mark.parametrize("error", [OSError("no space left on device"), ValueError("a bug"), KeyError("weight")])
def test_any_other_error_is_a_failure(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(AutoModelForMaskedLM, "from_pretrained", fail)
    with pytest.raises(type(error)):
        no_masked_head(files_of("bert_tiny"))
    assert heads._HEADLESS == {}


def test_head_of_tuned_embeddings_leaves_the_untouched_one_alone() -> None:
    """BERT's output matrix is that of its embeddings: a tuned one's head is made of its own."""
    model = masked_model(files_of("bert_tiny"))
    own = 2 * model.get_input_embeddings().weight.detach()
    states = torch.ones(1, 3, own.shape[1])
    head = OutputHead(model)
    before = head(states)
    bias = model.get_output_embeddings().bias
    with torch.no_grad():
        assert torch.allclose(head.tuned(own)(states), 2 * (before - bias) + bias, atol=1e-4)
        assert torch.equal(head(states), before)


def test_separate_output_matrix_is_the_untouched_one(gpt2_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    head = OutputHead(model)
    assert head.tuned(torch.zeros_like(model.lm_head.weight)) is head
