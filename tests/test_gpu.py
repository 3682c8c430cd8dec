"""What only a GPU shows; without one these tests skip themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_runs
import torch
from small_runs import assert_same_run, run

from harness import runtime
from harness.execution.execute import execute
from harness.runtime import paged_bytes
from harness.training.checkpoint import random_state, restore_random_state
from harness.training.trainer import HarnessTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.fixture
def llama(data_folder: Path, llama_folder: Path) -> list[str]:
    return ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder), "rank=4"]


@pytest.mark.parametrize("precision", ["model.dtype=bfloat16", "train.bf16=true", "train.fp16=true"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_mixed_precision_trains_float32_copies(method: str, precision: str, llama: list[str], tmp_path: Path) -> None:
    folder, record = run(tmp_path, *llama, f"method={method}", precision, "train.max_steps=8")
    assert record["status"] == "done", record.get("traceback")
    assert record["runtime"]["device"] == "cuda" and record["runtime"]["gpu"]
    assert record["runtime"]["precision"]["trained"] == "float32"
    assert {tensor.dtype for tensor in small_runs.tensors(folder / "trained").values()} == {torch.float32}
    losses = [entry["loss"] for entry in small_runs.history(folder)]
    assert losses[-1] < losses[0]


def test_qlora_pages_its_optimiser_on_a_gpu(llama: list[str], tmp_path: Path) -> None:
    _, record = run(tmp_path, *llama, "method=qlora")
    assert record["runtime"]["optimizer"] == "paged_adamw_32bit"
    assert record["runtime"]["method"] == {"compute_dtype": "bfloat16", "paged": True}


def test_paged_state_is_measured_beside_cudas_allocator_and_freed(data_folder: Path, tmp_path: Path) -> None:
    """bitsandbytes pages tensors of at least 100,000 values: here the embeddings, 30,522 x 128, two moments of each."""
    bert = ["model=bert_tiny", *small_runs.task("classification", data_folder), "method=full"]
    _, record = run(tmp_path, *bert, "train.optim=paged_adamw_32bit")
    assert record["memory"]["train"]["cuda_paged_gib"] > 2 * 4 * 30_522 * 128 / 2**30
    assert paged_bytes() == 0


def test_peaks_of_the_gpu_are_those_of_steps_alone(llama: list[str], tmp_path: Path) -> None:
    _, record = run(tmp_path, *llama, "method=full", "train.save_steps=1")
    steps = record["memory"]["train"]
    assert 0 < steps["cuda_allocated_gib"] <= steps["cuda_reserved_gib"]
    assert record["memory"]["checkpoint"]["cuda_allocated_gib"] > 0


def test_declined_gpu_is_left_alone(llama: list[str], tmp_path: Path) -> None:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _, record = run(tmp_path, *llama, "method=qlora", "train.use_cpu=true")
    assert record["runtime"]["device"] == "cpu"
    assert record["runtime"]["method"] == {"compute_dtype": "float32", "paged": False}
    assert torch.cuda.max_memory_allocated() == before


def test_tf32_is_of_the_run_alone(tmp_path: Path) -> None:
    config = small_runs.configure(tmp_path, "train.tf32=true")
    one, other = torch.randn(256, 256, device="cuda"), torch.randn(256, 256, device="cuda")
    plain = one @ other
    with runtime.resolve(config).settings():
        rounded = one @ other
    if torch.cuda.get_device_capability() >= (8, 0):
        assert not torch.equal(plain, rounded)
    assert torch.equal(plain, one @ other)


def test_random_state_of_more_gpus_is_restored_on_fewer(tmp_path: Path) -> None:
    here = runtime.resolve(small_runs.configure(tmp_path))
    state = random_state(here)
    state["cuda"] = [*state["cuda"], *state["cuda"]]
    expected = torch.rand(3, device="cuda")
    restore_random_state(state, here)
    assert torch.equal(torch.rand(3, device="cuda"), expected)


@pytest.mark.parametrize("more", [[], ["train.fp16=true"], ["method=qlora"]])
def test_cut_run_ends_as_a_whole_one(more: list[str], llama: list[str], tmp_path: Path) -> None:
    """With deterministic kernels, dropout drawn on the GPU, and where gradients are scaled the scale too."""
    exact = [*llama, "method=lora", "method.dropout=0.2", "train.full_determinism=true", *more]
    whole, record = run(tmp_path / "whole", *exact)
    assert record["status"] == "done", record.get("traceback")
    original, steps = HarnessTrainer.compute_loss, []

    def cut(self: HarnessTrainer, *arguments: object, **options: object) -> object:
        steps.append(self.state.global_step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)  # type: ignore[arg-type]

    config = small_runs.configure(tmp_path / "cut", *exact)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(HarnessTrainer, "compute_loss", cut)
        execute(config)
    execute(config)
    assert_same_run(whole, small_runs.folder_of(config))
