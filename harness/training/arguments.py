"""The Trainer's arguments, from the configuration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from transformers import TrainingArguments

from harness.config import RunConfig, TrainConfig
from harness.errors import ConfigError, first_line
from harness.identity import learning_rate
from harness.methods.base import Method
from harness.models import device_of

OURS = {
    "keep_checkpoints",
    "other",
    "eval_steps",
    "learning_rate",
    "learning_rate_factor",
    "optim",
    "save_steps",
    "max_steps",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
}


def arguments(
    train: TrainConfig, method: Method, rate: float, steps: int, seed: int, output_dir: Path
) -> TrainingArguments:
    """Return the Trainer's arguments: the configuration's, passed through, and what this project decides."""
    passed = {name: value for name, value in asdict(train).items() if name not in OURS}
    decided = {
        "output_dir": str(output_dir),
        "max_steps": steps,
        "learning_rate": rate,
        "optim": train.optim or method.optimizer(),
        # Without a GPU the model is on the CPU; the Trainer would move it to Apple's, and refuse bf16.
        "use_cpu": device_of(train.use_cpu).type == "cpu",
        "activation_checkpointing": train.gradient_checkpointing,
        # Reentrant checkpointing gives no gradient where the inputs need none, as with a frozen base.
        "activation_checkpointing_kwargs": {"use_reentrant": False} | train.gradient_checkpointing_kwargs,
        "save_strategy": "steps" if train.save_steps else "no",
        "save_steps": train.save_steps or steps,
        "logging_strategy": "steps",
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": [],
        "seed": seed,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    made = TrainingArguments(**passed | decided | train.other)
    # Several visible GPUs would mean DataParallel, which splits batches behind our back.
    made._n_gpu = min(made.n_gpu, 1)
    return made


def check_arguments(config: RunConfig) -> None:
    """Refuse, before anything is trained, what the Trainer would refuse."""
    try:
        arguments(config.train, config.method, learning_rate(config), 1, config.seed, Path(config.output_dir))
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError("train", type(error).__name__, first_line(error)) from error
