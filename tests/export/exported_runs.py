"""Runs that the tests of exporting share: their configurations, and how an export of one is opened."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig

import harness.tuners.houlsby  # noqa: F401  # makes HOULSBY a tuner of PEFT
from harness.config import RunConfig
from harness.export import Request
from harness.methods.peft import quiet_peft
from harness.methods.qlora import keep_unpacked

QUICK = ("train.max_steps=3", "train.save_steps=0", "rank=4")
METHODS: dict[str, list[str]] = {
    "full": ["method=full"],
    "bitfit": ["method=bitfit"],
    "bitfit_added": ["method=bitfit", "method.add_biases=true"],
    "head_only": ["method=head_only"],
    "lora": ["method=lora"],
    "lora_other": ["method=lora", "rank=2", "seed=1", "method.targets=qv"],
    "dora": ["method=lora", "method.dora=true"],
    "pissa": ["method=lora", "method.init=pissa"],
    "loftq": ["method=lora", "method.init=loftq"],
    "rslora": ["method=rslora"],
    "qlora": ["method=qlora"],
    "qlora8": ["method=qlora", "method.bits=8"],
    "prefix": ["method=prefix", "method.length=3"],
    "prefix_projected": ["method=prefix", "method.length=3", "method.projection=true", "method.projection_size=8"],
    "prompt": ["method=prompt", "method.length=3"],
    "prompt_text": ["method=prompt", "method.length=3", "method.init=text", "method.init_text='the film'"],
    "adapter": ["method=adapter", "method.size=4"],
    "adapter_other": ["method=adapter", "method.size=6", "seed=1"],
    "ia3": ["method=peft", "method.peft_type=IA3"],
    "lokr": ["method=peft", "method.peft_type=LOKR", "+method.options.r=4"],
    "lora_prefix": ["method=lora_prefix", "method.length=3"],
}
DIRECT = ("full", "bitfit", "bitfit_added", "head_only")
UNMERGEABLE = ("prefix", "prefix_projected", "prompt", "prompt_text", "adapter", "adapter_other")
ADAPTERS = [name for name in METHODS if name not in (*DIRECT, "loftq", "lora_prefix")]
MERGEABLE = [name for name in METHODS if name not in (*UNMERGEABLE, "bitfit_added", "lora_prefix")]
ON_BOTH = {"full", "lora", "pissa", "qlora", "adapter", "prefix", "prompt"}
"""Trained on the encoder and on the decoder; the others on one of them, to save time."""
DECODER_ONLY = {"bitfit_added", "qlora8", "prompt_text", "rslora", "loftq", "head_only", "ia3", "lokr"}
TOKENS = torch.arange(5, 25).reshape(2, 10)


@dataclass(frozen=True)
class Room:
    """Where runs go, and what they are trained from."""

    runs: Path
    llama: Path
    data: Path


@dataclass(frozen=True)
class Trained:
    """A run that was trained, and its live model's logits at the end of it."""

    config: RunConfig
    folder: Path
    logits: torch.Tensor

    @property
    def id(self) -> str:
        return self.folder.name


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    output: torch.Tensor = model.eval()(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits
    return output.float().clone()


def configure(room: Room, kind: str, name: str, *overrides: str) -> RunConfig:
    model = "model=bert_tiny" if kind == "encoder" else f"model.path={room.llama}"
    data = ["task.max_train=16", "task.max_validation=4", "task.max_test=6"]
    return small_runs.configure(
        room.runs, model, *small_runs.task("classification", room.data), *data, *QUICK, *METHODS[name], *overrides
    )


def cases(names: list[str]) -> list[Any]:
    return [
        pytest.param(kind, name, id=f"{name}-{kind}")
        for name in names
        for kind in ("encoder", "decoder")
        if name in ON_BOTH or (kind == "decoder") == (name in DECODER_ONLY)
    ]


def ask(run: Trained, to: Path, **options: Any) -> Request:
    return Request(run.id, str(to), output_dir=str(run.folder.parent), **options)


def base_model(run: Trained, folder: str | Path, quantised: bool = False) -> Any:
    """Load a base or merged model by plain transformers, an encoder with a head of its two labels."""
    options: dict[str, Any] = {}
    if quantised:
        quantization: BitsAndBytesConfig = run.config.method.quantization()
        options = {"quantization_config": quantization, "device_map": {"": "cpu"}}
    torch.manual_seed(99)  # another start for a new head
    if run.config.model.path:
        return AutoModelForCausalLM.from_pretrained(folder, **options)
    if quantised:
        quantization.llm_int8_skip_modules = ["bert.pooler.dense", "classifier"]
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, **options)


def open_adapter(run: Trained, folder: Path) -> Any:
    settings = json.loads((folder / "adapter_config.json").read_text())
    base = base_model(run, settings["base_model_name_or_path"], run.config.method.quantization() is not None)
    keep_unpacked(base)
    with quiet_peft():
        return PeftModel.from_pretrained(base, folder)


def close_enough(run: Trained, found: torch.Tensor, share: float = 1e-5) -> bool:
    return float((found - run.logits).abs().max()) <= share * float(run.logits.abs().max())


def copied(run: Trained, tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / run.id
    shutil.copytree(run.folder, folder)
    return folder
