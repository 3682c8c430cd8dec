"""Models of the documents' sizes, planned on a small machine."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.compose import compose
from harness.models import size
from harness.planning.plan import blueprint_of
from harness.planning.skeleton import weightless

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("llama3_2_3b", 3_212_749_824),
        ("llama2_7b", 6_738_415_616),
        ("llama2_13b", 13_015_864_320),
        ("llama_30b", 32_528_943_616),
        ("llama2_70b", 68_976_648_192),
        ("qwen1_5_110b", 111_209_914_368),
        ("gpt2", 124_439_808),
        ("qwen2_5_0_5b", 494_032_768),
    ],
)
def test_a_presets_architecture_has_the_published_number_of_parameters(preset: str, parameters: int) -> None:
    """The hub's pages say so of the safetensors of each."""
    backbone = weightless(blueprint_of(compose(f"model={preset}", "method=full", "tracker=none")))
    assert sum(map(size, backbone.model.parameters())) == parameters
    assert next(backbone.model.parameters()).device == torch.device("meta")


@pytest.mark.slow
def test_70b_in_4_bits_is_planned_within_4_gib(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    asked = ["model=llama2_70b", "method=qlora", "model.dtype=bfloat16", "task.max_length=512", f"out={out}"]
    asked += ["train.per_device_train_batch_size=1", "train.gradient_checkpointing=true", "gpu=a100_80"]
    command = [sys.executable, "-m", "harness.plan", *asked]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (row,) = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert 33 < row["peak_bytes"] / 2**30 < 42, "68.7 billion weights of 4.127 bits are 33 GiB"
    assert row["fits"] == "yes"
    assert after.ru_maxrss < 4 * 2**20, "KiB"
