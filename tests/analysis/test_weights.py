"""What is read from disk is what the models compute with: against transformers and PEFT, merge for merge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import logits, perturb, tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

from analysis.spectra.adapters import Adapter
from analysis.spectra.changes import Dense, LowRank, Matrix
from analysis.spectra.checkpoints import Checkpoint
from analysis.spectra.quantised import Quantisation, int8
from analysis.spectra.weights import Pair, Wanted
from harness.errors import ConfigError, NotApplicable
from harness.methods.peft import quiet_peft


def save_base(architecture: str, folder: Path, **options: Any) -> Path:
    """Write a tiny model as any user would have it."""
    tiny(architecture).model.save_pretrained(folder, **options)
    return folder


def save_adapter(architecture: str, folder: Path, **options: Any) -> nn.Module:
    """Write an adapter trained by PEFT, all of it off its start; return the model."""
    backbone = tiny(architecture)
    defaults = {"r": 3, "lora_alpha": 5, "target_modules": "all-linear", "fan_in_fan_out": backbone.transposed}
    with quiet_peft():
        model = get_peft_model(backbone.model, LoraConfig(**{**defaults, **options}))
    perturb(model)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return model


def merged(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of PEFT's own merge, each as (out_features, in_features)."""
    plain = model.merge_and_unload()
    return {
        f"{name}.weight": (module.weight.T if isinstance(module, Conv1D) else module.weight).detach()
        for name, module in plain.named_modules()
        if isinstance(module, (nn.Linear, Conv1D, nn.Embedding))
    }


def pair(base: Path, tuned: Path, **options: Any) -> Pair:
    adapter = (tuned / "adapter_config.json").exists()
    return Pair(Checkpoint(base, "base"), Adapter(tuned) if adapter else Checkpoint(tuned, "tuned"), **options)


def assert_is_merge(matrices: list[Matrix], wanted: dict[str, torch.Tensor]) -> None:
    for matrix in matrices:
        (expected,) = [
            tensor for name, tensor in wanted.items() if name.endswith(matrix.name) or matrix.name.endswith(name)
        ]
        torch.testing.assert_close(matrix.base + matrix.change.dense(), expected, atol=2e-6, rtol=1e-5)


ADAPTERS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"1.mlp.up_proj": 11, "down_proj": 2}},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa_rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "olora": {"init_lora_weights": "olora"},
    "pissa_dora": {"init_lora_weights": "pissa", "use_dora": True},
    "some": {"target_modules": ["q_proj", "v_proj"]},
}


@pytest.mark.parametrize("options", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters_equal_the_merge_of_peft(tmp_path, options):
    base = save_base("llama", tmp_path / "base")
    model = save_adapter("llama", tmp_path / "adapter", **options)
    found = pair(base, tmp_path / "adapter")
    matrices = list(found)
    assert len(matrices) + found.unchanged == 14
    assert all(isinstance(matrix.change, Dense if options.get("use_dora") else LowRank) for matrix in matrices)
    assert_is_merge(matrices, merged(model))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_starts_that_move_weights_keep_twice_the_rank(tmp_path, init):
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter", init_lora_weights=init)
    assert {matrix.change.a.shape[0] for matrix in pair(base, tmp_path / "adapter")} == {6}


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"init_lora_weights": "pissa"}], ids=str)
def test_gpt2_is_turned_round(tmp_path, options):
    base = save_base("gpt2", tmp_path / "base")
    model = save_adapter("gpt2", tmp_path / "adapter", **options)
    matrices = list(pair(base, tmp_path / "adapter"))
    assert {matrix.kind: matrix.shape for matrix in matrices} == {
        "c_attn": (96, 32),
        "attn.c_proj": (32, 32),
        "c_fc": (128, 32),
        "mlp.c_proj": (32, 128),
    }
    assert_is_merge(matrices, merged(model))


def test_full_checkpoints_of_gpt2(tmp_path):
    base = save_base("gpt2", tmp_path / "base")
    model = tiny("gpt2").model
    perturb(model)
    model.save_pretrained(tmp_path / "tuned")
    wanted = {name: tensor.T for name, tensor in model.state_dict().items() if tensor.dim() == 2}
    assert_is_merge(list(pair(base, tmp_path / "tuned")), wanted)


def test_a_bare_encoder_matches_a_classifier_made_of_it(tmp_path):
    """The base calls a layer encoder.layer.0…, the tuned model bert.encoder.layer.0…"""
    model = tiny("bert").model
    model.bert.save_pretrained(tmp_path / "base")
    perturb(model)
    model.save_pretrained(tmp_path / "tuned")
    matrices = list(pair(tmp_path / "base", tmp_path / "tuned"))
    assert len(matrices) == 12
    assert {matrix.kind for matrix in matrices} == {
        "query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense",
    }  # fmt: skip
    assert {matrix.layer for matrix in matrices} == {0, 1}
    wanted = {name.removeprefix("bert."): tensor for name, tensor in model.state_dict().items() if tensor.dim() == 2}
    assert_is_merge(matrices, wanted)


def test_an_adapter_of_a_classifier_over_a_bare_encoder(tmp_path):
    backbone = tiny("bert")
    backbone.model.bert.save_pretrained(tmp_path / "base")
    model = save_adapter(
        "bert", tmp_path / "adapter", target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    matrices = list(pair(tmp_path / "base", tmp_path / "adapter", wanted=Wanted(heads=True)))
    assert len(matrices) == 4  # the new head has nothing to be compared with
    assert_is_merge(matrices, {name.removeprefix("bert."): tensor for name, tensor in merged(model).items()})


def test_embeddings_and_heads_on_request(tmp_path):
    base = save_base("llama", tmp_path / "base")
    model = save_adapter(
        "llama", tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"]
    )
    found = pair(base, tmp_path / "adapter", wanted=Wanted(embeddings=True, heads=True))
    assert {matrix.kind for matrix in found} == {"q_proj", "embed_tokens", "lm_head"}
    assert_is_merge(list(found), merged(model))
    assert {matrix.kind for matrix in pair(base, tmp_path / "adapter")} == {"q_proj"}


def test_shards_are_read_one_tensor_at_a_time(tmp_path, monkeypatch):
    base = save_base("llama", tmp_path / "base", max_shard_size="20KB")
    assert len(list(base.glob("*.safetensors"))) > 3
    model = tiny("llama").model
    perturb(model)
    model.save_pretrained(tmp_path / "tuned")
    read: list[str] = []
    original = Checkpoint._read
    monkeypatch.setattr(Checkpoint, "_read", lambda self, name: read.append(name) or original(self, name))
    found = iter(pair(base, tmp_path / "tuned"))
    first = next(found)
    assert set(read) == {first.name}
    assert_is_merge([first, *found], dict(model.state_dict()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly(tmp_path, dtype):
    tiny("llama").model.to(dtype).save_pretrained(tmp_path / "base")
    model = tiny("llama").model.to(dtype)
    perturb(model)
    model.save_pretrained(tmp_path / "tuned")
    matrices = list(pair(tmp_path / "base", tmp_path / "tuned"))
    assert {matrix.dtype for matrix in matrices} == {str(dtype).removeprefix("torch.")}
    for matrix in matrices:
        torch.testing.assert_close(matrix.base + matrix.change.dense(), model.state_dict()[matrix.name].float())


def test_a_quantised_base_is_compared_both_ways(tmp_path):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    base = save_base("llama_wide", tmp_path / "base")
    save_adapter("llama_wide", tmp_path / "adapter")
    matrices = list(pair(base, tmp_path / "adapter", quantisation=Quantisation("nf4")))
    assert [matrix.reference for matrix in matrices[:2]] == ["w0", "dequantised"]
    for full, over in zip(matrices[::2], matrices[1::2], strict=True):
        packed, state = quantize_4bit(full.base, blocksize=64, compress_statistics=True, quant_type="nf4")
        torch.testing.assert_close(over.base, dequantize_4bit(packed, state))
        torch.testing.assert_close(full.base + full.change.dense(), over.base + over.change.dense())
        torch.testing.assert_close(full.floor.delta, over.base - full.base)
        assert isinstance(over.change, LowRank)


def test_eight_bits_are_those_of_bitsandbytes():
    from bitsandbytes.functional import int8_vectorwise_quant

    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    packed, scale, _ = int8_vectorwise_quant(weight.half())
    torch.testing.assert_close(int8(weight), packed.float() * (scale[:, None] / 127), atol=1e-6, rtol=1e-5)


def test_weights_stored_in_four_bits_are_dequantised(tmp_path):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    base = save_base("llama_wide", tmp_path / "base")
    path = base / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.self_attn.q_proj.weight"
    packed, state = quantize_4bit(tensors[name], blocksize=64, compress_statistics=True, quant_type="nf4")
    expected = dequantize_4bit(packed, state)
    parts = {f"{name}.{key}": tensor for key, tensor in state.as_dict(packed=True).items()}
    save_file(tensors | {name: packed} | parts, path)
    save_adapter("llama_wide", tmp_path / "adapter", target_modules=["q_proj"])
    matrix = next(iter(pair(base, tmp_path / "adapter")))
    assert matrix.dtype == "nf4"
    torch.testing.assert_close(matrix.base, expected)


def test_a_raw_state_dict_with_the_name_of_its_adapter(tmp_path):
    base = save_base("llama", tmp_path / "base")
    model = save_adapter("llama", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name.replace(".weight", ".default.weight"): t for name, t in load_file(path).items()}, path)
    assert_is_merge(list(pair(base, tmp_path / "adapter")), merged(model))


def test_modules_are_chosen_by_parts_of_their_names(tmp_path):
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter")
    found = pair(base, tmp_path / "adapter", wanted=Wanted(modules=("q_proj", "layers.1.mlp")))
    assert [matrix.name.split("layers.")[1] for matrix in found] == [
        "0.self_attn.q_proj.weight",
        "1.mlp.down_proj.weight",
        "1.mlp.gate_proj.weight",
        "1.mlp.up_proj.weight",
        "1.self_attn.q_proj.weight",
    ]


def test_reopened_by_peft_the_adapter_is_the_same_model(tmp_path):
    """The reconstruction of a moved start is what PEFT computes when it opens the folder on an untouched base."""
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter", init_lora_weights="pissa")
    with quiet_peft():
        opened = PeftModel.from_pretrained(tiny("llama").model, str(tmp_path / "adapter"))
    before = logits(opened)
    model = tiny("llama").model
    state = model.state_dict()
    for matrix in pair(base, tmp_path / "adapter"):
        state[matrix.name].copy_(matrix.base + matrix.change.dense())
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)


# What does not fit: one line, naming the tensor.


@pytest.fixture
def tuned(tmp_path: Path) -> tuple[Path, Path]:
    """Return a base and a full checkpoint trained from it."""
    base = save_base("llama", tmp_path / "base")
    model = tiny("llama").model
    perturb(model)
    model.save_pretrained(tmp_path / "tuned")
    return base, tmp_path / "tuned"


def edit(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace or remove tensors of a folder; names are given with __ for the dots."""
    path = next(folder.glob("*.safetensors"))
    tensors = load_file(path)
    for name, tensor in changes.items():
        dotted = name.replace("__", ".")
        tensors.pop(dotted, None)
        if tensor is not None:
            tensors[dotted] = tensor
    save_file(tensors, path)


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / ("adapter_config.json" if (folder / "adapter_config.json").exists() else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_refused(found: Pair, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        list(found)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


Q = "model__layers__0__self_attn__q_proj__weight"


def test_another_shape_is_refused(tuned):
    edit(tuned[1], **{Q: torch.zeros(32, 16)})
    assert_refused(pair(*tuned), "layers.0.self_attn.q_proj.weight", "32 x 16", "32 x 32")


def test_a_matrix_missing_from_the_tuned_model_is_refused(tuned):
    edit(tuned[1], **{Q: None})
    assert_refused(pair(*tuned), "lacks model.layers.0.self_attn.q_proj.weight")


def test_a_matrix_missing_from_the_base_is_refused(tuned):
    edit(tuned[0], **{Q: None})
    assert_refused(pair(*tuned), "model.layers.0.self_attn.q_proj.weight", "the base lacks")


def test_a_resized_vocabulary_is_refused_unless_only_blocks_are_wanted(tuned):
    edit(tuned[1], model__embed_tokens__weight=torch.zeros(70, 32), lm_head__weight=torch.zeros(70, 32))
    assert_refused(pair(*tuned), "embed_tokens.weight", "70 x 32", "vocabulary")
    assert len(list(pair(*tuned, vocabulary=False))) == 14


def test_a_head_tied_on_one_side_is_refused(tuned):
    edit(tuned[1], lm_head__weight=None)
    set_config(tuned[1], tie_word_embeddings=True)
    assert_refused(pair(*tuned), "lm_head.weight", "tied", "tuned model only")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_weights_that_are_no_numbers_are_refused(tuned, value, side):
    weight = load_file(next(tuned[side].glob("*.safetensors")))[Q.replace("__", ".")]
    weight[3, 4] = value
    edit(tuned[side], **{Q: weight})
    assert_refused(pair(*tuned), "layers.0.self_attn.q_proj.weight", "NaN or infinite", ("base", "tuned")[side])


def test_integers_are_refused(tuned):
    edit(tuned[1], **{Q: torch.zeros(32, 32, dtype=torch.int8)})
    assert_refused(pair(*tuned), "q_proj.weight", "int8")


def test_a_missing_shard_is_refused(tmp_path):
    base = save_base("llama", tmp_path / "base", max_shard_size="20KB")
    shard = sorted(base.glob("*.safetensors"))[1]
    shard.unlink()
    assert_refused(pair(base, base), shard.name)


def test_an_index_that_names_what_its_shard_does_not_hold_is_refused(tmp_path):
    base = save_base("llama", tmp_path / "base", max_shard_size="20KB")
    path = base / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][Q.replace("__", ".")] = index["weight_map"]["lm_head.weight"]
    path.write_text(json.dumps(index))
    assert_refused(pair(base, base), "q_proj.weight", "as its index says")


def test_pickles_are_not_opened(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"no pickle")
    assert_refused(pair(tmp_path, tmp_path), "pytorch_model.bin", "pickled")


def test_an_adapter_of_another_architecture_is_refused(tmp_path):
    base = save_base("gpt2", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter")
    assert_refused(pair(base, tmp_path / "adapter"), "layers.0", "another base")


def test_an_adapter_of_a_larger_base_is_refused(tmp_path):
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama_wide", tmp_path / "adapter")
    assert_refused(pair(base, tmp_path / "adapter"), "layers.0", " x ")


def test_an_adapter_without_its_other_half_is_refused(tmp_path):
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter", target_modules=["q_proj"])
    edit(tmp_path / "adapter", **{f"base_model__model__{Q}".replace("__weight", "__lora_B__weight"): None})
    assert_refused(pair(base, tmp_path / "adapter"), "layers.0.self_attn.q_proj", "lora_B")


def test_a_rank_other_than_the_configuration_says_is_refused(tmp_path):
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter")
    set_config(tmp_path / "adapter", r=8)
    assert_refused(pair(base, tmp_path / "adapter"), "rank 3", "says 8")


@pytest.mark.parametrize("start", ["corda", "pissa_niter_4", "lora_ga"])
def test_starts_that_cannot_be_computed_again_are_refused(tmp_path, start):
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter")
    set_config(tmp_path / "adapter", init_lora_weights=start)
    assert_refused(pair(base, tmp_path / "adapter"), start, "merge")


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "IA3", "HOULSBY"])
def test_adapters_that_are_no_low_rank_change_are_not_applicable(tmp_path, kind):
    base = save_base("llama", tmp_path / "base")
    save_adapter("llama", tmp_path / "adapter")
    set_config(tmp_path / "adapter", peft_type=kind)
    with pytest.raises(NotApplicable):
        list(pair(base, tmp_path / "adapter"))


def test_modules_that_name_nothing_are_refused(tuned):
    assert_refused(pair(*tuned, wanted=Wanted(modules=("q_prj",))), "modules=q_prj")


def test_a_damaged_file_is_refused_in_one_line(tuned):
    from harness.errors import AssetError

    next(tuned[1].glob("*.safetensors")).write_bytes(b"cut")
    with pytest.raises(AssetError, match=r"tuned=.*cannot be read"):
        list(pair(*tuned))


def test_a_folder_can_be_moved(tuned, tmp_path):
    shutil.move(tuned[1], tmp_path / "elsewhere")
    assert len(list(pair(tuned[0], tmp_path / "elsewhere"))) == 14
