"""Of LoRA with a prefix the analysis reads the weight change, and finds it in the model that LoRA was folded into."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_runs
import torch
from safetensors.torch import load_file

from analysis.intruders import Settings
from analysis.spectra.interventions.scaling import Weights
from analysis.spectra.intruders.sources import jobs
from harness.execution.reload import config_of, load_run
from harness.storage.record import read_record


@pytest.mark.slow
def test_the_change_is_loras_and_the_merged_model_has_it(tmp_path: Path, llama_folder: Path, data_folder: Path) -> None:
    options = ["method=lora_prefix", "method.length=3", "rank=4", "train.max_steps=2", "train.learning_rate=0.01"]
    task = small_runs.task("classification", data_folder)
    folder, _ = small_runs.run(tmp_path, f"model.path={llama_folder}", *task, *options, "train.save_steps=0")
    (job,) = jobs(Settings(runs=(str(folder),)))
    found = {matrix.name: matrix for _, pair in job.steps for matrix in pair}
    stored = load_file(folder / "trained/adapter_model.safetensors")
    merged = Weights(config_of(read_record(folder)).method.merge(load_run(folder)[0]))
    assert len(found) == len(stored) / 2
    for name, matrix in found.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        wanted = 2 * stored[f"{layer}.lora_B.weight"] @ stored[f"{layer}.lora_A.weight"]  # alpha / r = 2
        assert wanted.any()
        torch.testing.assert_close(matrix.change.dense().float(), wanted, rtol=1e-4, atol=1e-6)
        now = merged.parameter(name).detach()
        torch.testing.assert_close(now, matrix.base.float() + wanted, rtol=1e-4, atol=1e-5)
