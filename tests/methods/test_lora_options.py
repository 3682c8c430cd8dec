"""LoRA's scale, its starts and LoRA+ against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from scipy.linalg import svd
from tiny_models import logits, perturb, tiny
from torch import nn

from harness.errors import ConfigError, NotApplicable
from harness.methods.base import trainable
from harness.methods.lora import Initialisation, LoRA, Targets
from harness.methods.rslora import RsLoRA
from harness.tuners.loftq import nf4

# The 16 levels of NF4, from appendix E of the QLoRA paper.
NF4 = [
    -1.0,
    -0.6962,
    -0.5251,
    -0.3949,
    -0.2844,
    -0.1848,
    -0.0911,
    0.0,
    0.0796,
    0.1609,
    0.2461,
    0.3379,
    0.4407,
    0.5626,
    0.7230,
    1.0,
]


def first_layer(model: nn.Module) -> Any:
    return next(module for module in model.modules() if isinstance(module, LoraLayer))


def update_over_product(model: nn.Module) -> float:
    """Return what W - W0 is of B A, by the merged weight itself."""
    perturb(model)
    layer = first_layer(model)
    before = layer.base_layer.weight.detach().clone()
    product = layer.lora_B["default"].weight.detach() @ layer.lora_A["default"].weight.detach()
    layer.merge()
    ratio = (layer.base_layer.weight.detach() - before) / product
    return float(ratio.median())


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_scale_of_lora_is_alpha_over_rank(rank: int) -> None:
    assert update_over_product(LoRA(rank=rank, alpha=6.0).attach(tiny("llama"))) == pytest.approx(6 / rank, rel=1e-3)
    assert update_over_product(LoRA(rank=rank).attach(tiny("llama"))) == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_scale_of_rslora_is_alpha_over_root_of_rank(rank: int) -> None:
    model = RsLoRA(rank=rank, alpha=6.0).attach(tiny("llama"))
    assert update_over_product(model) == pytest.approx(6 / math.sqrt(rank), rel=1e-3)
    assert update_over_product(RsLoRA(rank=rank).attach(tiny("llama"))) == pytest.approx(8 / math.sqrt(rank), rel=1e-3)


def test_both_scales_meet_at_rank_16() -> None:
    lora, rslora = LoRA(rank=16).attach(tiny("llama")), RsLoRA(rank=16).attach(tiny("llama"))
    assert first_layer(lora).scaling == first_layer(rslora).scaling == {"default": 2.0}


def test_pissa_starts_at_the_largest_singular_values() -> None:
    base = tiny("llama").model.model.layers[0].self_attn.q_proj.weight.detach()
    layer = first_layer(LoRA(rank=3, init=Initialisation.pissa).attach(tiny("llama")))
    start = layer.get_delta_weight("default").detach()
    u, s, vh = svd(base.double().numpy())
    best = torch.from_numpy(u[:, :3] * s[:3] @ vh[:3]).float()
    torch.testing.assert_close(start, best, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.base_layer.weight + start, base, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [LoRA(rank=3, init=Initialisation.loftq), RsLoRA(rank=3, init=Initialisation.loftq)])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_loftq_makes_up_for_quantisation_as_well_as_its_rank_can(method: LoRA, architecture: str) -> None:
    base = first_layer(LoRA(rank=1).attach(tiny(architecture))).base_layer.weight.detach()
    layer = first_layer(method.attach(tiny(architecture)))
    quantised = layer.base_layer.weight.detach()
    torch.testing.assert_close(quantised, nf4(base))
    left = torch.linalg.svdvals(base - quantised - layer.get_delta_weight("default").detach())
    missing = torch.linalg.svdvals(base - quantised)
    # Eckart and Young: nothing of rank 3 leaves less than the singular values from the fourth on.
    torch.testing.assert_close(left[: len(missing) - 3], missing[3:], rtol=1e-3, atol=1e-6)


def test_loftq_of_full_rank_is_the_base() -> None:
    base = logits(tiny("bert").model)
    model = LoRA(rank=32, init=Initialisation.loftq).attach(tiny("bert"))
    torch.testing.assert_close(logits(model), base, rtol=0, atol=1e-5)


def test_nf4_rounds_to_the_levels_of_the_paper() -> None:
    weight = torch.randn(4, 64)
    scaled = nf4(weight) / weight.abs().amax(1, keepdim=True)
    nearest = (scaled[..., None] - torch.tensor(NF4)).abs().amin(-1)
    assert nearest.max() < 1e-3


@pytest.mark.parametrize("init", [Initialisation.pissa, Initialisation.olora, Initialisation.loftq])
def test_a_rank_larger_than_a_matrix_is_not_applicable(init: Initialisation) -> None:
    with pytest.raises(NotApplicable, match=f"method.init={init.value} gives no rank 17 for .*k_proj of 16 x 32"):
        LoRA(rank=17, init=init).attach(tiny("llama"))


def test_lora_plus_gives_b_its_own_rate() -> None:
    model = LoRA(rank=3, lora_plus_ratio=16.0).attach(tiny("bert"))
    options = {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.95)}
    optimizer = LoRA(rank=3, lora_plus_ratio=16.0).create_optimizer(model, torch.optim.AdamW, options)
    assert optimizer is not None
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    wanted = {id(p): 16e-3 if ".lora_B." in name else 1e-3 for name, p in trainable(model).items()}
    assert rates == wanted
    assert all(group["weight_decay"] == 0.1 and group["betas"] == (0.9, 0.95) for group in optimizer.param_groups)


def test_lora_plus_agrees_with_peft_on_a_decoder() -> None:
    from peft.optimizers import create_loraplus_optimizer

    method = LoRA(rank=3, lora_plus_ratio=4.0)
    model = method.attach(tiny("llama"))
    ours = method.create_optimizer(model, torch.optim.AdamW, {"lr": 1e-3})
    peft = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=4.0)
    assert ours is not None

    def rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
        return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}

    assert rates(ours) == rates(peft)


def test_without_lora_plus_the_trainer_makes_the_optimizer() -> None:
    method = LoRA(rank=3)
    assert method.create_optimizer(method.attach(tiny("llama")), torch.optim.AdamW, {"lr": 1e-3}) is None


@pytest.mark.parametrize(
    ("method", "architecture", "reason"),
    [
        (
            LoRA(rank=3, targets=Targets.qv),
            "modernbert",
            "PEFT knows no query and value layers of modernbert",
        ),
        (LoRA(rank=3, init=Initialisation.olora), "gpt2", "method.init=olora does not fit"),
    ],
)
def test_what_does_not_fit_says_why(method: LoRA, architecture: str, reason: str) -> None:
    assert reason in str(method.unsuitable(tiny(architecture)))
    assert LoRA(rank=3).unsuitable(tiny(architecture)) is None


def test_targets_that_match_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method.target_modules=\['nothing'\]: names no layer of the model"):
        LoRA(rank=3, target_modules=["nothing"]).attach(tiny("llama"))


def test_dropout_is_on_in_training_alone() -> None:
    model = LoRA(rank=3, dropout=0.5).attach(tiny("llama"))
    perturb(model)
    tokens = {"input_ids": torch.arange(4, 20).reshape(2, 8)}
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(model(**tokens).logits, model(**tokens).logits)
