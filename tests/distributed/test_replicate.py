"""Two processes that hold the whole model each give what one process gives, by every method and objective."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import small_runs
from small_runs import run
from together import assert_same_numbers, in_two

from harness.storage import assets
from harness.storage.record import read_record

METHODS = {
    "full": [],
    "lora": ["method.lora_plus_ratio=4"],
    "rslora": ["train.gradient_accumulation_steps=2"],  # which two processes share by whole batches
    "qlora": [],
    "prefix": [],
    "prompt": [],
    "bitfit": ["method.add_biases=true"],
    "adapter": ["train.per_device_train_batch_size=5"],  # three rows for one process, two for the other
    "head_only": [],
    "peft": ["method.peft_type=IA3"],
}
ENCODER_KINDS = ("classification", "multiple_choice", "regression")
KINDS = ("multiple_choice", "instruction", "language_modeling")


def overrides(model: Path, data: Path, method: str, kind: str, *more: str) -> list[str]:
    chosen = ["model=custom", f"model.path={model}", *small_runs.task(kind, data), f"method={method}"]
    return [*chosen, "rank=4", "train.use_cpu=true", *METHODS[method], *more]


def without_dropout(folder: Path) -> Path:
    """Write BERT-tiny without dropout, of which each process would draw its own."""
    bert = assets.fetch_model(small_runs.configure("runs", "model=bert_tiny").model, assets.cache_root(None)).folder
    shutil.copytree(bert, folder)
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(described | none), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_two_processes_give_what_one_gives(llama_folder: Path, data_folder: Path, tmp_path: Path, quick: None) -> None:
    asked = {method: overrides(llama_folder, data_folder, method, "classification") for method in METHODS}
    asked |= {kind: overrides(llama_folder, data_folder, "lora", kind) for kind in KINDS}
    encoder = without_dropout(tmp_path / "bert")
    asked |= {f"encoder {kind}": overrides(encoder, data_folder, "lora", kind) for kind in ENCODER_KINDS}
    two = in_two([small_runs.configure(tmp_path / "two", *chosen) for chosen in asked.values()])
    for (name, chosen), folder in zip(asked.items(), two, strict=True):
        one, _ = run(tmp_path / "one", *chosen)
        assert_same_numbers(one, folder, shifts=name == "encoder multiple_choice")
        record = read_record(folder)
        assert (record["runtime"]["processes"], len(record["memory_by_process"])) == (2, 2)
