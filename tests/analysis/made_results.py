"""Result files as PEFT's method comparison writes them, with numbers of one's choice."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

TEMPLATE: dict[str, Any] = {
    "run_info": {
        "created_at": "2026-07-15T05:41:18+00:00",
        "total_time": 115.5,
        "experiment_name": "lora/llama-3.2-3B-rank32",
        "peft_branch": "main",
        "train_config": {
            "model_id": "meta-llama/Llama-3.2-3B",
            "dtype": "bfloat16",
            "max_seq_length": 768,
            "batch_size": 4,
            "max_steps": 500,
            "eval_steps": 250,
            "query_template": "Question: {query} Think step by step.\nAnswer:",
            "seed": 0,
            "grad_norm_clip": 1.0,
            "optimizer_kwargs": {"lr": 1e-4, "weight_decay": 0.1},
            "lr_scheduler": "cosine",
            "attn_implementation": None,
        },
        "peft_config": {"peft_type": "LORA", "r": 32, "lora_alpha": 64, "use_rslora": False, "rank_pattern": {}},
        "error_msg": "",
    },
    "train_info": {
        "accelerator_memory_reserved_avg": 14_397_338_969,
        "accelerator_memory_max": 22_292_725_760,
        "accelerator_memory_reserved_99th": 20_120_076_288,
        "train_time": 94.2,
        "file_size": 36_715_216,
        "num_trainable_params": 9_175_040,
        "num_total_params": 3_221_924_864,
        "status": "success",
        "metrics": [
            {"step": 250, "valid accuracy": 0.32, "train loss": 0.98, "train time": 30.0, "tokens / sec": 7000.0},
            {"step": 500, "valid accuracy": 0.36, "train loss": 0.72, "train time": 20.0, "tokens / sec": 7500.0},
            {
                "step": 500,
                "test accuracy": 0.4784,
                "train loss": 0.72,
                "train samples": 2000,
                "train total tokens": 360_000,
                "forgetting": 0.05,
            },
        ],
    },
    "meta_info": {
        "model_info": {"sha": "13afe512", "created_at": "2024-09-18T15:23:48+00:00"},
        "dataset_info": {"metamath": {"sha": "aa4f34d3"}, "gsm8k": {"sha": "740312ad"}},
        "package_info": {
            "peft-version": "0.19.2.dev0",
            "peft-commit-hash": "d787f51b",
            "torch-version": "2.13.0+cu130",
        },
        "system_info": {"system": "Linux", "accelerator": "NVIDIA L40S"},
        "pytorch_info": "PyTorch built with:\n  - GCC 13.3",
    },
}
NOTHING = object()


def result(**changes: Any) -> dict[str, Any]:
    """Return a result; a change is ``train_info__status="failed"``, and :data:`NOTHING` takes a key away."""
    tree = deepcopy(TEMPLATE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        branch = tree
        for key in parents:
            branch = branch[key]
        if value is NOTHING:
            del branch[last]
        else:
            branch[last] = value
    return tree


def write_result(folder: Path, name: str = "lora--llama-3.2-3B-rank32", **changes: Any) -> Path:
    """Write a result file as their runner does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result(**changes), indent=2), encoding="utf-8")
    return path
