"""Every method trains in the same precision, whatever the model was loaded in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from safetensors.torch import load_file
from small_runs import run, tensors

from harness import runtime
from harness.errors import ConfigError
from harness.execution import session
from harness.execution.loading import attach, load, load_untouched

pytestmark = pytest.mark.usefixtures("quick")

METHODS: dict[str, list[str]] = {
    "full": ["method=full"],
    "bitfit": ["method=bitfit", "method.add_biases=true"],
    "lora": ["method=lora"],
    "qlora": ["method=qlora"],
    "prefix": ["method=prefix"],
    "prompt": ["method=prompt"],
    "adapter": ["method=adapter"],
    "vera": ["method=peft", "method.peft_type=VERA", "+method.options.r=4"],
}
HALF = "model.dtype=bfloat16"


@pytest.fixture
def llama(data_folder: Path, llama_folder: Path) -> list[str]:
    return ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder), "rank=4"]


def trained_types(folder: Path) -> set[torch.dtype]:
    """Return the dtypes of a trained state, without VeRA's projections, which it saves and never trains."""
    found = tensors(folder / "trained").items()
    return {tensor.dtype for name, tensor in found if not name.endswith(("vera_A", "vera_B"))}


def names_of(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(record["runtime"]["precision"][name] for name in ("weights", "trained", "compute"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_trained_tensors_are_float32_in_a_bfloat16_model(name: str, llama: list[str], tmp_path: Path) -> None:
    folder, record = run(tmp_path, *llama, *METHODS[name], HALF)
    assert record["status"] == "done", record.get("traceback")
    assert trained_types(folder) == {torch.float32}
    assert names_of(record) == ("bfloat16", "float32", "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_pure_bfloat16_holds_every_method_alike(name: str, llama: list[str], tmp_path: Path) -> None:
    folder, record = run(tmp_path, *llama, *METHODS[name], HALF, "train.master_weights=false")
    assert record["status"] == "done", record.get("traceback")
    assert trained_types(folder) == {torch.bfloat16}
    assert names_of(record) == ("bfloat16", "bfloat16", "bfloat16")


@pytest.mark.parametrize("name", METHODS)
def test_frozen_weights_stay_as_they_were_loaded(name: str, llama: list[str], tmp_path: Path) -> None:
    config = small_runs.configure(tmp_path, *llama, *METHODS[name], HALF)
    here = runtime.resolve(config)
    prepared = session.prepare(config)
    backbone = load(config, prepared, here)
    model = attach(config, backbone, here)
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    frozen = {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad}
    assert trained == {torch.float32}
    assert frozen <= {torch.bfloat16, torch.uint8}  # bitsandbytes packs 4 bits in bytes


def moved(folder: Path, base: dict[str, torch.Tensor], part: str) -> float:
    """Return the share of values of the tensors with `part` in their names that training has changed."""
    stored = load_file(folder / "trained" / "model.safetensors")
    chosen = [name for name in stored if part in name]
    changed = torch.cat([(stored[name].float() != base[name].to(torch.bfloat16).float()).flatten() for name in chosen])
    return float(changed.float().mean())


@pytest.mark.slow
def test_full_fine_tuning_moves_every_weight_of_a_bfloat16_model(
    llama: list[str], llama_folder: Path, tmp_path: Path
) -> None:
    """Held in bfloat16, whose step at 1 is 0.0078, no norm moves at the method's own rate of 1e-4."""
    base = load_file(llama_folder / "model.safetensors")
    more = ["method=full", HALF, "train.max_steps=60", "train.save_steps=0"]
    mixed, _ = run(tmp_path / "mixed", *llama, *more)
    pure, _ = run(tmp_path / "pure", *llama, *more, "train.master_weights=false")
    assert moved(mixed, base, "norm.weight") > 0.99 and moved(mixed, base, "proj.weight") > 0.99
    assert moved(pure, base, "norm.weight") < 0.05 and moved(pure, base, "proj.weight") < 0.5


@pytest.mark.parametrize("overrides", [[HALF], ["train.bf16=true"]])
def test_products_are_computed_in_bfloat16(overrides: list[str], llama: list[str], tmp_path: Path) -> None:
    config = small_runs.configure(tmp_path, *llama, "method=full", *overrides)
    here = runtime.resolve(config)
    model = attach(config, load(config, session.prepare(config), here), here)
    seen: list[torch.dtype] = []
    model.get_submodule("model.layers.0.mlp.up_proj").register_forward_hook(lambda *call: seen.append(call[2].dtype))
    with here.autocast():
        model(input_ids=torch.arange(8).reshape(1, 8))
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("model", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("method", ["full", "bitfit", "lora", "adapter"])
def test_an_untrained_model_is_the_base_to_the_bit_in_bfloat16(
    method: str, model: str, data_folder: Path, llama_folder: Path, gpt2_folder: Path, tmp_path: Path
) -> None:
    """Held in float32 for training, no method computes more precisely than the base it is compared with."""
    chosen = {
        "llama": ["model=custom", f"model.path={llama_folder}"],
        "gpt2": ["model=custom", f"model.path={gpt2_folder}"],
        "bert": ["model=bert_tiny"],
    }[model]
    more = ["method.add_biases=true"] if method == "bitfit" else []
    overrides = [*chosen, *small_runs.task("classification", data_folder), f"method={method}", HALF, *more]
    config = small_runs.configure(tmp_path, *overrides)
    here, prepared = runtime.resolve(config), session.prepare(config)
    tokens = torch.arange(40).reshape(2, 20)
    untouched = load_untouched(config, prepared, here).model.eval()
    ready = attach(config, load(config, prepared, here), here).eval()
    with torch.no_grad(), here.autocast():
        assert torch.equal(ready(input_ids=tokens).logits, untouched(input_ids=tokens).logits)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bitfit", "full", "head_only"])
def test_an_encoder_with_layer_norms_trains_in_bfloat16(method: str, data_folder: Path, tmp_path: Path) -> None:
    """A norm cannot compute with a bias in float32 and a weight in bfloat16."""
    bert = ["model=bert_tiny", *small_runs.task("classification", data_folder)]
    _, record = run(tmp_path, *bert, f"method={method}", HALF)
    assert record["status"] == "done", record.get("traceback")


@pytest.mark.slow
def test_a_bfloat16_run_learns_what_a_float32_run_learns(llama: list[str], tmp_path: Path) -> None:
    """The losses of both agree to the rounding of the products: 2^-8 a product, less after averaging over targets."""
    losses = {}
    for name, more in {"whole": [], "half": [HALF], "autocast": ["train.bf16=true"]}.items():
        folder, _ = run(tmp_path / name, *llama, "method=full", "train.max_steps=20", *more)
        losses[name] = [entry["loss"] for entry in small_runs.history(folder)]
    assert losses["half"] == pytest.approx(losses["whole"], rel=0.05)
    assert losses["autocast"] == pytest.approx(losses["whole"], rel=0.05)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.dtype=float16", "train.bf16=true"], "train.bf16=True: contradicts model.dtype=float16"),
        (["model.dtype=bfloat16", "train.fp16=true"], "train.fp16=True: contradicts model.dtype=bfloat16"),
        (["train.master_weights=false", "train.bf16=true"], "train.master_weights=False: holds all in model.dtype"),
        (["train.fp16=true", "train.use_cpu=true"], "train.fp16=float16: .* need a GPU"),
        (["model.dtype=float16", "train.use_cpu=true"], "model.dtype=float16: .* need a GPU"),
    ],
)
def test_precisions_that_contradict_are_refused(
    overrides: list[str], said: str, llama: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        runtime.resolve(small_runs.configure(tmp_path, *llama, *overrides))


def test_precision_makes_another_run(llama: list[str], tmp_path: Path) -> None:
    from harness.identity import run_id

    ids = {
        run_id(small_runs.configure(tmp_path, *llama, *more))
        for more in ([], [HALF], [HALF, "train.master_weights=false"], ["train.bf16=true"])
    }
    assert len(ids) == 4
