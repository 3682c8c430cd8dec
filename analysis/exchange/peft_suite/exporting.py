"""One's own runs in PEFT's schema, as ``<method>--<id>.json``: what its reader needs is there, nothing is invented.

What the schema has no place for, intervals, metric, forgetting by our definition, stands in a fourth part,
``peft_harness``, that PEFT's reader passes over. What was not measured is null, but for three numbers of accelerator
memory that the reader casts to whole numbers: a run on the CPU used 0 bytes of an accelerator; one on a GPU gives its
peak reserved in training for the mean and the 99th percentile too, an upper bound, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.exchange.peft_suite.schema import OWN, Result, at
from analysis.records import history, read_runs, record
from analysis.records.files import adapter_config
from harness.errors import HarnessError, RecordError
from harness.storage.files import write_json

RIGHT = ("accuracy", "exact_match")
"""Metrics that are the share of items answered right, as the schema's ``test accuracy`` is."""
PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
OPTIMISERS = {None: "AdamW", "adamw_torch": "AdamW", "adamw_torch_fused": "AdamW", "sgd": "SGD"}
"""The Trainer's names → torch.optim's; any other is written as it is."""
BOUND = "accelerator_memory_reserved_avg and _99th were not measured: the peak in training stands there, an upper bound"
GIB = 2**30


def export_runs(runs: Sequence[Path], out: Path) -> tuple[list[Path], list[str]]:
    """Write a result file for each run that is done; return their paths and a line for each run left out."""
    found = read_runs(*runs)
    own = found.table[~found.table["foreign"].fillna(False)]
    written, problems = [], list(found.problems)
    for run in own.to_dict("records"):
        try:
            result = export(Path(run["folder"]))
        except HarnessError as error:
            problems.append(str(error))
            continue
        path = out / f"{result['run_info']['experiment_name'].replace('/', '--')}.json"
        write_json(path, result)
        written.append(path)
    return written, problems


def export(folder: Path) -> Result:
    """Return a run in PEFT's schema; raise :class:`RecordError` in one line for one that has no place in it."""
    own = record(folder)
    metric = _metric(own, folder)
    try:
        return {
            "run_info": _run_info(own, folder),
            "train_info": _train_info(own, folder, metric),
            "meta_info": _meta_info(own),
            OWN: _own(own, metric),
        }
    except KeyError as error:
        raise RecordError(f"{folder}/record.json: damaged, it lacks {error.args[0]}") from None


def _metric(own: dict[str, Any], folder: Path) -> str:
    if own["status"] != "done":
        raise RecordError(f"{folder}: left out, it is {own['status']} and not done")
    if own.get("sequence"):
        raise RecordError(f"{folder}: left out, a sequence of tasks has no place in PEFT's schema")
    if own.get("metric") not in RIGHT:
        raise RecordError(f"{folder}: left out, its metric is {own.get('metric')}; PEFT's schema has only accuracy")
    return str(own["metric"])


def _run_info(own: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "created_at": own.get("started"),
        "total_time": sum(own["seconds"].values()),
        "experiment_name": f"{own['config']['method']['name']}/{own['id']}",
        "peft_branch": None,
        "train_config": _train_config(own),
        "peft_config": _peft_config(own, folder),
        "error_msg": "",
    }


def _train_config(own: dict[str, Any]) -> dict[str, Any]:
    config, train = own["config"], own["config"]["train"]
    rate, decay = train["learning_rate"], train.get("weight_decay")
    betas = [train.get("adam_beta1"), train.get("adam_beta2")]
    new_tokens = at(config, "task.max_new_tokens")
    return {
        "model_id": _model_name(own),
        "dtype": at(config, "model.dtype"),
        "max_seq_length": at(config, "task.max_length"),
        "batch_size": _batch(own),
        "batch_size_eval": train.get("per_device_eval_batch_size"),
        "max_steps": own.get("steps"),
        "eval_steps": _interval(own),
        "compile": train.get("torch_compile"),
        "use_gc": train.get("gradient_checkpointing"),
        "query_template": (at(config, "task.template") or "{text}").replace("{text}", "{query}"),
        "seed": config.get("seed"),
        "grad_norm_clip": train.get("max_grad_norm"),
        "optimizer_type": OPTIMISERS.get(train.get("optim"), train.get("optim")),
        "optimizer_kwargs": {"lr": rate, "weight_decay": decay, "betas": betas, "eps": train.get("adam_epsilon")},
        "lr_scheduler": train.get("lr_scheduler_type"),
        "use_amp": bool(train.get("bf16") or train.get("fp16")),
        "autocast_adapter_dtype": None,
        "generation_kwargs": {} if new_tokens is None else {"max_new_tokens": new_tokens},
        "attn_implementation": None,
        "init_kv_cache_prefix": None,
    }


def _model_name(own: dict[str, Any]) -> str | None:
    return at(own, "config.model.id") or at(own, "config.model.name")


def _batch(own: dict[str, Any]) -> int:
    train = own["config"]["train"]
    return int(train["per_device_train_batch_size"] * (train.get("gradient_accumulation_steps") or 1))


def _interval(own: dict[str, Any]) -> int:
    """Return the steps between evaluations; all of them where the only one was at the end."""
    return int(at(own, "config.train.eval_steps") or own["steps"])


def _peft_config(own: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """Return the adapter's own configuration; null means full fine-tuning to PEFT's reader, so only that gets it."""
    if adapter := adapter_config(folder):
        # not the path it was trained from, which tells of the machine
        return adapter | {"base_model_name_or_path": _model_name(own)}
    if own["parameters"]["trainable"] == own["parameters"]["total"]:
        return None
    method = own["config"]["method"]
    return {"peft_type": method["name"].upper()} | {key: value for key, value in method.items() if key != "name"}


def _train_info(own: dict[str, Any], folder: Path, metric: str) -> dict[str, Any]:
    memory = own["memory"]
    peaks = [phase["cuda_reserved_gib"] for phase in memory.values() if "cuda_reserved_gib" in phase]
    training = int(memory["train"].get("cuda_reserved_gib", 0.0) * GIB)
    return {
        "accelerator_memory_reserved_avg": training,
        "accelerator_memory_max": int(max(peaks, default=0.0) * GIB),
        "accelerator_memory_reserved_99th": training,
        "train_time": own["seconds"]["train"],
        "file_size": own["parameters"]["saved_bytes"],
        "num_trainable_params": own["parameters"]["trainable"],
        "num_total_params": own["parameters"]["total"],
        "status": "success",
        "metrics": _metrics(own, folder, metric),
    }


def _metrics(own: dict[str, Any], folder: Path, metric: str) -> list[dict[str, Any]]:
    """Return one entry for the training, ending in the validation, and the test's; losses are means of the history."""
    both = {"step": own["steps"], "train loss": _loss(own, folder), "train samples": own["steps"] * _batch(own)}
    trained = {"train time": own["seconds"]["train"], "tokens / sec": own["tokens_per_second"]}
    scores = own["scores"]["after"]
    return [
        both | {"valid accuracy": at(scores, f"validation.{metric}.value")} | trained,
        both | {"test accuracy": scores["test"][metric]["value"], "train total tokens": own["tokens"]},
    ]


def _loss(own: dict[str, Any], folder: Path) -> float | None:
    """Return the mean loss since the last evaluation along the way, as theirs is; None where nothing was logged."""
    logged = history(folder)
    if not {"step", "loss"} <= set(logged.columns):
        return None
    return float(logged.loc[logged["step"] > own["steps"] - _interval(own), "loss"].mean())


def _meta_info(own: dict[str, Any]) -> dict[str, Any]:
    config, machine = own["config"], own["machine"]
    system, _, processor = str(machine.get("system") or "").partition(" ")
    packages = {f"{name}-version": own["versions"].get(name) for name in PACKAGES}
    packages |= {f"{name}-commit-hash": None for name in PACKAGES}
    data = {"sha": at(own, "hashes.data"), "created_at": None}
    return {
        "model_info": {"sha": at(config, "model.revision"), "created_at": None},
        "dataset_info": {str(at(config, "task.dataset")): data},
        "package_info": packages,
        "system_info": {
            "system": system or None,
            "release": None,
            "version": None,
            "machine": processor or None,
            "processor": machine.get("processor"),
            "accelerator": machine.get("gpu") or machine.get("device"),
        },
        "pytorch_info": None,
    }


def _own(own: dict[str, Any], metric: str) -> dict[str, Any]:
    measured = "cuda_reserved_gib" in own["memory"]["train"]
    kept = {key: own.get(key) for key in ("id", "rank", "commit", "scores", "forgetting", "memory", "hashes")}
    return {"metric": metric, "notes": [BOUND] if measured else []} | kept
