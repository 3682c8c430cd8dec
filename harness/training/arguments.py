"""The Trainer's arguments, from the configuration."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from harness.config import RunConfig, require
from harness.distributed import group
from harness.errors import ConfigError, first_line
from harness.identity import learning_rate
from harness.runtime import BACKENDS, Runtime, settings_kept
from harness.training import recompute
from harness.training.order import Share

OURS = {
    "fused_loss",
    "keep_checkpoints",
    "master_weights",
    "other",
    "eval_steps",
    "learning_rate",
    "learning_rate_factor",
    "optim",
    "bf16",
    "fp16",
    "tf32",
    "full_determinism",
    "save_steps",
    "max_steps",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "selective_checkpointing",
}
"""Settings that are not passed on as they are; precision, tf32 and determinism are the runtime's."""


def arguments(config: RunConfig, runtime: Runtime, steps: int, output_dir: Path) -> TrainingArguments:
    """Return the Trainer's arguments: the configuration's, passed through, and what this project decides."""
    train = config.train
    passed = {name: value for name, value in asdict(train).items() if name not in OURS}
    share = Share.of(train, group.rank(), group.size())
    selected = {"context_fn": recompute.contexts} if train.selective_checkpointing else {}
    decided = {
        "per_device_train_batch_size": share.rows,
        "gradient_accumulation_steps": share.batches,
        "output_dir": str(output_dir),
        "max_steps": steps,
        "learning_rate": learning_rate(config),
        "optim": optimizer(config),
        "fp16": runtime.scales_gradients,  # autocast is the runtime's own, the same for training and answering
        # Without a GPU the model is on the CPU; the Trainer would move it to Apple's, and refuse bf16.
        "use_cpu": not runtime.cuda,
        "activation_checkpointing": train.gradient_checkpointing or train.selective_checkpointing,
        # Reentrant checkpointing gives no gradient where the inputs need none, as with a frozen base.
        "activation_checkpointing_kwargs": {"use_reentrant": False} | selected | train.gradient_checkpointing_kwargs,
        "save_strategy": "steps" if train.save_steps else "no",
        "save_steps": train.save_steps or steps,
        "logging_strategy": "steps",
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": [],
        "seed": config.seed,
        "dataloader_pin_memory": runtime.cuda,
    }
    precision = BACKENDS.fp32_precision
    made = TrainingArguments(**passed | decided | train.other)
    BACKENDS.fp32_precision = precision  # compiling would switch tf32 on for the training and not for the base
    # Several visible GPUs would mean DataParallel, which splits batches behind our back.
    made._n_gpu = min(made.n_gpu, 1)
    return made


def optimizer(config: RunConfig) -> str:
    """Return the optimiser's name: ``train.optim``, or the method's own default."""
    return config.train.optim or config.method.optimizer()


def check_arguments(config: RunConfig, runtime: Runtime) -> None:
    """Refuse, before anything is trained, what the Trainer would refuse, and what its optimiser or kernels lack."""
    settings = config.train
    workers = settings.other.get("dataloader_persistent_workers") and not settings.dataloader_num_workers
    require(not workers, "train.other.dataloader_persistent_workers", True, "needs train.dataloader_num_workers=1")
    if settings.other.get("use_liger_kernel"):
        installed = find_spec("liger_kernel") is not None
        require(installed, "train.other.use_liger_kernel", True, "needs the package liger-kernel, not installed here")
    try:
        with settings_kept():
            made = arguments(config, runtime, 1, Path(config.output_dir))
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError("train", type(error).__name__, first_line(error)) from error
    check_optimizer(made)


def check_optimizer(made: TrainingArguments) -> None:
    """Refuse an optimiser whose package is missing or whose options do not fit, by making one for a small model."""
    small: Any = torch.nn.Linear(2, 2)
    try:
        cls, options = Trainer.get_optimizer_cls_and_kwargs(made, small)
        if not {"params", "optimizer_dict", "model"} & set(options):  # what is made for the layers of a real model
            cls(small.parameters(), **options)
    except (TypeError, ValueError, ImportError, RuntimeError) as error:
        raise ConfigError("train.optim", str(made.optim.value), f"cannot be used here: {first_line(error)}") from error
