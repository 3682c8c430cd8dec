"""Plans of one of several processes: rows of the batch, and with ``distributed=shard`` rows of the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_runs
from transformers import AutoModelForCausalLM

from harness.planning.plan import Plan, Planner

ASKED = ["task.max_length=64", "train.per_device_train_batch_size=8", "train.fused_loss=false", "rank=4"]


def planned(folder: Path, llama: Path, *more: str) -> Plan:
    model = [
        "model=custom",
        f"model.path={llama}",
        "task=language_modeling",
        *small_runs.task("language_modeling", folder),
    ]
    return Planner(small_runs.configure(folder, *ASKED, *model, *more)).plan()


@pytest.mark.usefixtures("quick")
def test_full_fine_tuning_in_parts(llama_folder: Path, data_folder: Path) -> None:
    """Against the model's own sizes: 3/4 of weights and moments go, tensors outside of blocks and three blocks come."""
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    whole = sum(4 * one.numel() for one in model.parameters())
    block = max(sum(4 * one.numel() for one in layer.parameters()) for layer in model.model.layers)
    outside = whole - sum(4 * one.numel() for one in model.model.layers.parameters())
    one = planned(data_folder, llama_folder, "method=full", "train.per_device_train_batch_size=2")
    four = planned(data_folder, llama_folder, "method=full", "processes=4", "distributed=shard")
    assert one.bytes["weights"] - four.bytes["weights"] == whole * 3 // 4
    assert four.bytes["optimiser"] == pytest.approx(one.bytes["optimiser"] / 4, abs=4)
    assert four.bytes["temporaries"] - one.bytes["temporaries"] == outside + 3 * block
    assert four.bytes["activations"] == one.bytes["activations"]  # two of eight items


@pytest.mark.usefixtures("quick")
def test_what_a_method_adds_is_whole_in_each_process(llama_folder: Path, data_folder: Path) -> None:
    one = planned(data_folder, llama_folder, "method=lora", "train.per_device_train_batch_size=4")
    two = planned(data_folder, llama_folder, "method=lora", "processes=2", "distributed=shard")
    assert (two.bytes["gradients"], two.bytes["optimiser"]) == (one.bytes["gradients"], one.bytes["optimiser"])
    assert two.trainable == one.trainable and two.bytes["weights"] < one.bytes["weights"]


@pytest.mark.usefixtures("quick")
def test_replicate_shares_the_batch_alone(llama_folder: Path, data_folder: Path) -> None:
    half = planned(data_folder, llama_folder, "method=lora", "train.per_device_train_batch_size=4")
    two = planned(data_folder, llama_folder, "method=lora", "processes=2")
    assert (two.peak_bytes, two.batch_size, half.batch_size) == (half.peak_bytes, 8, 4)
