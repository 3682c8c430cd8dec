"""Trainable parameters, counted by the formulas of the papers."""

from __future__ import annotations

import pytest
from tiny_models import INNER, LABELS, LAYERS, VOCABULARY, WIDTH, count, tiny

from harness.methods.adapter import HoulsbyAdapter
from harness.methods.bitfit import BitFit
from harness.methods.full import Full
from harness.methods.head_only import HeadOnly
from harness.methods.lora import LoRA, Targets
from harness.methods.prefix import PrefixTuning
from harness.methods.prompt import PromptTuning
from harness.methods.rslora import RsLoRA

# (in_features, out_features) of a layer's linear layers.
KEYS = WIDTH // 2  # 2 key and value heads of 8
SHAPES = {
    "llama": [
        (WIDTH, WIDTH),
        (WIDTH, KEYS),
        (WIDTH, KEYS),
        (WIDTH, WIDTH),
        (WIDTH, INNER),
        (WIDTH, INNER),
        (INNER, WIDTH),
    ],
    "gpt2": [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)],
    "bert": [*[(WIDTH, WIDTH)] * 4, (WIDTH, INNER), (INNER, WIDTH)],
    "roberta": [*[(WIDTH, WIDTH)] * 4, (WIDTH, INNER), (INNER, WIDTH)],
    # Attention's three projections are one, the gate and the input of the feed-forward layer another.
    "modernbert": [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * INNER), (INNER, WIDTH)],
}
# Two layers: a dense one and the projection on the labels; ModernBERT's first has a norm instead of biases.
DENSE_HEAD = WIDTH * WIDTH + WIDTH + WIDTH * LABELS + LABELS
HEAD = {"llama": 0, "gpt2": 0, "bert": DENSE_HEAD, "roberta": DENSE_HEAD, "modernbert": DENSE_HEAD}
# Vectors of norms: weights alone for RMSNorm and ModernBERT, whose first attention has no norm.
NORMS = {
    "llama": 2 * LAYERS + 1,
    "gpt2": 2 * (2 * LAYERS + 1),
    "bert": 2 * (2 * LAYERS + 1),
    "roberta": 2 * (2 * LAYERS + 1),
    "modernbert": 2 * LAYERS + 1,
}


@pytest.mark.parametrize("architecture", SHAPES)
@pytest.mark.parametrize("method", [LoRA, RsLoRA])
def test_lora_trains_rank_times_in_plus_out(architecture: str, method: type[LoRA]) -> None:
    model = method(rank=3).attach(tiny(architecture))
    assert count(model) == LAYERS * 3 * sum(i + o for i, o in SHAPES[architecture]) + HEAD[architecture]


@pytest.mark.parametrize("architecture", SHAPES)
def test_dora_trains_a_magnitude_for_each_output_besides(architecture: str) -> None:
    model = LoRA(rank=3, dora=True).attach(tiny(architecture))
    assert count(model) == LAYERS * sum(3 * (i + o) + o for i, o in SHAPES[architecture]) + HEAD[architecture]


@pytest.mark.parametrize(
    ("architecture", "shapes"),
    [
        ("llama", [(WIDTH, WIDTH), (WIDTH, KEYS)]),
        ("bert", [(WIDTH, WIDTH)] * 2),
        ("gpt2", [(WIDTH, 3 * WIDTH)]),
    ],
)
def test_qv_targets_query_and_value_alone(architecture: str, shapes: list[tuple[int, int]]) -> None:
    model = LoRA(rank=3, targets=Targets.qv).attach(tiny(architecture))
    assert count(model) == LAYERS * 3 * sum(i + o for i, o in shapes) + HEAD[architecture]


def test_named_targets_replace_the_others() -> None:
    model = LoRA(rank=3, target_modules=["down_proj"]).attach(tiny("llama"))
    assert count(model) == LAYERS * 3 * (INNER + WIDTH)


@pytest.mark.parametrize(
    ("architecture", "width"), [("llama", KEYS), ("gpt2", WIDTH), ("bert", WIDTH), ("roberta", WIDTH)]
)
def test_prefix_trains_a_key_and_a_value_a_layer(architecture: str, width: int) -> None:
    model = PrefixTuning(length=5).attach(tiny(architecture))
    assert count(model) == 2 * LAYERS * 5 * width + HEAD[architecture]


@pytest.mark.parametrize("architecture", SHAPES)
def test_prompt_trains_one_vector_a_token(architecture: str) -> None:
    assert count(PromptTuning(length=5).attach(tiny(architecture))) == 5 * WIDTH + HEAD[architecture]


@pytest.mark.parametrize(
    ("architecture", "biases"),
    [
        # norms, then the layers by their outputs
        ("bert", WIDTH + LAYERS * (2 * WIDTH + 4 * WIDTH + INNER + WIDTH)),
        ("roberta", WIDTH + LAYERS * (2 * WIDTH + 4 * WIDTH + INNER + WIDTH)),
        ("gpt2", WIDTH + LAYERS * (2 * WIDTH + 3 * WIDTH + WIDTH + 4 * WIDTH + WIDTH)),
    ],
)
def test_bitfit_trains_the_biases(architecture: str, biases: int) -> None:
    assert count(BitFit().attach(tiny(architecture))) == biases + HEAD[architecture]


def test_added_biases_are_one_for_each_output_of_a_linear_layer() -> None:
    model = BitFit(add_biases=True).attach(tiny("llama"))
    assert count(model) == LAYERS * sum(outputs for _, outputs in SHAPES["llama"])


@pytest.mark.parametrize("architecture", SHAPES)
@pytest.mark.parametrize("norms", [True, False])
def test_adapter_trains_two_bottlenecks_a_layer(architecture: str, norms: bool) -> None:
    m = 5
    model = HoulsbyAdapter(size=m, train_layer_norms=norms).attach(tiny(architecture))
    bottlenecks = 2 * LAYERS * (2 * WIDTH * m + WIDTH + m)
    assert count(model) == bottlenecks + (NORMS[architecture] * WIDTH if norms else 0) + HEAD[architecture]


def test_full_trains_everything() -> None:
    norms = (2 * LAYERS + 1) * WIDTH
    linear = LAYERS * sum(i * o for i, o in SHAPES["llama"])
    assert count(Full().attach(tiny("llama"))) == 2 * VOCABULARY * WIDTH + linear + norms
    assert count(Full().attach(tiny("llama_tied"))) == VOCABULARY * WIDTH + linear + norms


@pytest.mark.parametrize(("architecture", "expected"), [*[*HEAD.items()][2:], ("llama", VOCABULARY * WIDTH)])
def test_head_only_trains_the_head(architecture: str, expected: int) -> None:
    assert count(HeadOnly().attach(tiny(architecture))) == expected
