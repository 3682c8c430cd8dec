"""A result file as a row in the columns of one's own runs.

A value fills a column only where both mean the same. What differs stays under ``foreign.<path>``, with all the rest:
their ``train_time`` contains the evaluation on the test set, so ``train_seconds`` adds up the intervals' ``train time``
instead (LoRA r = 32: 585 s of 942); their reader has no intervals, no base and no per-item outcomes, so nothing of a
foreign row can be paired. One meaning is wider than ours: ``train_peak_bytes`` is ``accelerator_memory_max``, reserved
and over the whole process.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from analysis.exchange.peft_suite.schema import FILE, STATUSES, UNMEASURED_SIZE, Result, at, leaves, read

if TYPE_CHECKING:
    import pandas as pd

TEXTS = {
    "model": "run_info.train_config.model_id",
    "commit": "meta_info.package_info.peft-commit-hash",
    "started": "run_info.created_at",
    "device": "meta_info.system_info.accelerator",
    "config.model.name": "run_info.train_config.model_id",
    "config.model.dtype": "run_info.train_config.dtype",
    "config.train.lr_scheduler_type": "run_info.train_config.lr_scheduler",
}
COUNTS = {
    "seed": "run_info.train_config.seed",
    "rank": "run_info.peft_config.r",
    "trainable": "train_info.num_trainable_params",
    "total": "train_info.num_total_params",
    "config.seed": "run_info.train_config.seed",
    "config.task.max_length": "run_info.train_config.max_seq_length",
    "config.method.rank": "run_info.peft_config.r",
    "config.train.max_steps": "run_info.train_config.max_steps",
    "config.train.per_device_train_batch_size": "run_info.train_config.batch_size",
}
NUMBERS = {
    "learning_rate": "run_info.train_config.optimizer_kwargs.lr",
    "train_peak_bytes": "train_info.accelerator_memory_max",
    "config.train.learning_rate": "run_info.train_config.optimizer_kwargs.lr",
    "config.train.weight_decay": "run_info.train_config.optimizer_kwargs.weight_decay",
    "config.train.max_grad_norm": "run_info.train_config.grad_norm_clip",
}
"""Our column → their path, where both mean the same; what is of another type there is missing here."""
FORGETTING = "forgetting (PEFT suite)"
"""Their loss on Wikipedia after training minus that with the adapter disabled: comparable among their results only."""
UNSHIFTED = "forgetting (PEFT suite, no next-token shift)"
"""What it was before their pull request 3419: a position's logits met its own token, and prompt tuning forgot 3.67."""
UNKNOWN = "forgetting (PEFT suite, of which definition?)"
SHIFTED = [
    "d787f51bbaa1",
    "cea8213158c8",
    "51c2ff666b14",
    "667d0c30d59c",
    "cd81cf38f73e",
    "72e71c2c0233",
    "194cb8feb21c",
    "1025a19b1197",
    "39096cbec046",
    "ae623e55bf46",
    "95f2a74d17cd",
    "81e417b69eed",
    "3652122d2e1a",
    "aee16509f9a4",
    "ca541c04c139",
    "4c672987e093",
    "167fcb0f29a8",
]
"""PEFT's commits from that pull request (2026-07-14) to version 0.20.0: all of 0.19.2.dev0, as many before it are."""
PUBLISHED = [
    "8be1a16f5e06",
    "5fe7f8f8abe9",
    "a27406c26da0",
    "6d5a6f4f2f90",
    "25e5c6b25c45",
    "a18ba67f242a",
    "47961bb54706",
    "261366de2e40",
    "51bd32da3942",
    "c6057c84f7da",
]
"""The commits of the results that PEFT published before."""
DIGITS = 8
"""Of a commit, as the shortest that a file was seen to have."""


def rows(folder: Path) -> pd.DataFrame:
    """Return the one row of an imported result's folder as a table; what the file lacks has no column."""
    import pandas as pd

    return pd.DataFrame([row(folder)])


def row(folder: Path) -> dict[str, Any]:
    """Return an imported result's columns; raises :class:`RecordError` in one line where its file is damaged."""
    result = read(Path(folder) / FILE)
    found: dict[str, Any] = {"id": Path(folder).name, "folder": str(folder), "foreign": True}
    found |= {column: _text(at(result, path)) for column, path in TEXTS.items()}
    found |= {column: _whole(at(result, path)) for column, path in COUNTS.items()}
    found |= {column: _number(at(result, path)) for column, path in NUMBERS.items()}
    found |= _names(result) | _outcome(result) | _costs(result) | _versions(result)
    found |= {f"foreign.{path}": value for path, value in leaves(result)}
    found |= {f"foreign.test.{name}": value for name, value in leaves(_test(result))}
    return {column: value for column, value in found.items() if value is not None}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _names(result: Result) -> dict[str, Any]:
    """Name method and task as the file does: ``<method>/<experiment>``, and the data sets it lists."""
    experiment, data = _text(at(result, "run_info.experiment_name")), at(result, "meta_info.dataset_info")
    method = experiment.split("/", 1)[0] if experiment else None
    return {
        # Another label than any of ours: a plot or a mean by label never mixes the two.
        "label": f"{experiment} (PEFT)" if experiment else None,
        "method": method,
        "config.method.name": method,
        "task": "+".join(data) if isinstance(data, dict) and data else None,
        "scale": _scale(at(result, "run_info.peft_config")),
    }


def _scale(config: Any) -> float | None:
    """Return LoRA's α/r, or α/√r with rsLoRA; None where it differs from module to module or is none."""
    alpha, rank = _number(at(config, "lora_alpha")), _number(at(config, "r"))
    if alpha is None or not rank or at(config, "rank_pattern") or at(config, "alpha_pattern"):
        return None
    return alpha / (math.sqrt(rank) if at(config, "use_rslora") else rank)


def _outcome(result: Result) -> dict[str, Any]:
    status, test = at(result, "train_info.status"), _test(result)
    metric = next((name.removeprefix("test ") for name in test if name.startswith("test ")), None)
    reason = _text(at(result, "run_info.error_msg")) or None
    validations = [_number(entry.get(f"valid {metric}")) for entry in _entries(result)]
    forgetting = _number(test.get("forgetting"))
    return {
        "status": STATUSES[status],
        "reason": f"canceled: {reason or 'no reason given'}" if status == "canceled" else reason,
        "metric": metric,
        "higher_is_better": True if metric == "accuracy" else None,
        "score": _number(test.get(f"test {metric}")),
        "validation": next((score for score in reversed(validations) if score is not None), None),
        "steps": _whole((_entries(result) or [{}])[-1].get("step")),
        "forgetting": forgetting,
        "forgetting_name": None if forgetting is None else _forgetting(result),
        "forgetting_higher_is_better": None if forgetting is None else False,
    }


def _forgetting(result: Result) -> str:
    """Return the name of their forgetting by its definition, told by the commit, or the version where that tells."""
    packages = at(result, "meta_info.package_info")
    commit, version = (_text(at(packages, f"peft-{name}")) or "" for name in ("commit-hash", "version"))
    known = {one[:DIGITS]: FORGETTING for one in SHIFTED} | {one[:DIGITS]: UNSHIFTED for one in PUBLISHED}
    return known.get(commit[:DIGITS]) or _forgetting_of(version)


def _forgetting_of(version: str) -> str:
    try:
        release = Version(version).release
    except InvalidVersion:
        return UNKNOWN
    return FORGETTING if release >= (0, 20) else UNKNOWN if release >= (0, 19, 2) else UNSHIFTED


def _entries(result: Result) -> list[dict[str, Any]]:
    return list(at(result, "train_info.metrics") or [])


def _test(result: Result) -> dict[str, Any]:
    """Return the last entry of the metrics if it is the test's."""
    last = (_entries(result) or [{}])[-1]
    return last if any(name.startswith("test ") for name in last) else {}


def _costs(result: Result) -> dict[str, Any]:
    trainable, total, size = (
        _whole(at(result, f"train_info.{name}")) for name in ("num_trainable_params", "num_total_params", "file_size")
    )
    return {
        "tokens": _whole(_test(result).get("train total tokens")),
        "trainable_share": trainable / total if trainable is not None and total else None,
        "saved_bytes": None if size == UNMEASURED_SIZE else size,
        **_pace(result),
    }


def _pace(result: Result) -> dict[str, Any]:
    """Return Σ t_i and Σ t_i v_i / Σ t_i, over the intervals between evaluations: ``train time``, ``tokens / sec``."""
    pairs = [
        (_number(entry.get("train time")), _number(entry.get("tokens / sec")))
        for entry in _entries(result)
        if entry is not _test(result)
    ]
    known = [(seconds, speed) for seconds, speed in pairs if seconds is not None and speed is not None]
    total = sum(seconds for seconds, _ in known)
    if len(known) < len(pairs) or not total:
        return {}
    speed = sum(seconds * speed for seconds, speed in known) / total
    return {"train_seconds": total, "seconds.train": total, "tokens_per_second": speed}


def _versions(result: Result) -> dict[str, Any]:
    packages = at(result, "meta_info.package_info")
    named = packages.items() if isinstance(packages, dict) else ()
    return {f"version.{name.removesuffix('-version')}": _text(v) for name, v in named if name.endswith("-version")}
