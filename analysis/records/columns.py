"""One record → one row: every column of the tidy table, and what is missing stays missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.records.files import adapter_config
from harness.errors import RecordError
from harness.storage.record import Status

Row = dict[str, Any]
GIB = 2**30
ADVICE = "lower train.learning_rate"
"""What a run that diverged is told to do, of whatever version its record is."""
ROW: dict[str, str] = {
    **dict.fromkeys(("id", "folder", "label", "model", "task", "method"), "text"),
    **dict.fromkeys(("rank", "seed"), "whole"),
    **dict.fromkeys(("learning_rate", "scale"), "number"),
    **dict.fromkeys(("searched", "search_warning", "diverged"), "flag"),
    "rates_tried": "whole",
    **dict.fromkeys(("search_rates", "search_why"), "text"),
    **dict.fromkeys(("status", "reason", "metric"), "text"),
    "higher_is_better": "flag",
    **dict.fromkeys(("score", "score_low", "score_high", "base", "base_low", "base_high", "validation"), "number"),
    **dict.fromkeys(("test_items", "trainable", "total"), "whole"),
    "trainable_share": "number",
    **dict.fromkeys(("saved_bytes", "tokens", "steps"), "whole"),
    **dict.fromkeys(("tokens_per_second", "train_seconds", "train_peak_bytes", "evaluate_peak_bytes"), "number"),
    "train_paged_bytes": "number",
    **dict.fromkeys(("forgetting", "forgetting_low", "forgetting_high"), "number"),
    "forgetting_name": "text",
    "forgetting_version": "whole",
    "forgetting_higher_is_better": "flag",
    **dict.fromkeys(("intruders_excess", "intruders_p"), "number"),
    "intruders": "whole",
    "intruders_k": "whole",
    "intruders_eps": "number",
    **dict.fromkeys(("intruders_clustered", "intruders_v", "intruders_floor"), "whole"),
    **dict.fromkeys(("intruders_null", "intruders_null_low", "intruders_null_high"), "number"),
    **dict.fromkeys(("intruders_null_dense", "intruders_null_rank"), "number"),
    **dict.fromkeys(("relative_change", "effective_rank"), "number"),
    **dict.fromkeys(("data_hash", "model_hash", "commit"), "text"),
    "dirty": "flag",
    **dict.fromkeys(("started", "device", "device_kind", "processor", "kernels", "environment", "optimizer"), "text"),
    **dict.fromkeys(("precision", "precision_weights", "precision_trained", "precision_compute", "mixed"), "text"),
    **dict.fromkeys(("threads", "processes", "restarts", "schema"), "whole"),
    "foreign": "flag",
}
"""Column → kind, of every row whatever the runs; besides these come ``seconds.*``, ``probe.*``, ``version.*`` and
``config.*``. `score` and `base` are the test split's, `validation` the validation split's, of the metric `metric`;
`forgetting` is the change of the headline metric of the first probe that has one, in that metric's unit and with its
sign; seconds, bytes, tokens per second as their names say, of optimiser steps alone since schema 2; `mixed` is what
differed between the attempts that trained a run, missing where nothing did. `searched` is whether a search on a seed of
its own chose the learning rate; then `rates_tried` counts its rates, `search_rates` are these, `search_why` says why it
ended and `search_warning` whether it ended too soon. `intruders_excess` are intruder dimensions beyond the median of
random changes of ΔW's own spectrum (`intruders_null`, with 5 % and 95 % quantiles), `intruders_p` is the chance of as
many. `diverged` is whether the rate was too much for the run."""


PYTHON = {"text": (str,), "whole": (int,), "number": (int, float), "flag": (bool,)}
"""Kind → what a cell may be besides None."""


def row(record: dict[str, Any], folder: Path) -> Row:
    """Return a record's row; a key that it lacks is None and never 0.

    Raises :class:`RecordError` where a value is of another type than its column.
    """
    cells: Row = dict.fromkeys(ROW)
    cells |= _what(record, folder) | _scores(record) | _costs(record) | _forgetting(record) | _origin(record)
    for name, value in cells.items():
        if value is not None and type(value) not in PYTHON[ROW[name]]:
            raise RecordError(f"{folder}/record.json: damaged, its {name} is {value!r}")
    cells |= {f"seconds.{phase}": value for phase, value in _dict(record, "seconds").items()}
    cells |= dict(_probes(record))
    cells |= {f"version.{name}": value for name, value in _dict(record, "versions").items()}
    return cells | {f"config.{key}": value for key, value in flat(_dict(record, "config"))}


def _at(tree: Any, *keys: str) -> Any:
    """Return what stands at a path of keys, None where any part of it is missing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _dict(tree: Any, *keys: str) -> dict[str, Any]:
    found = _at(tree, *keys)
    return found if isinstance(found, dict) else {}


def _what(record: dict[str, Any], folder: Path) -> Row:
    config, method, rank = record["config"], _at(record, "config", "method", "name"), record.get("rank")
    return {
        "id": record["id"],
        "folder": str(folder),
        "label": method if rank is None else f"{method} r{rank}",
        "model": _model(_dict(config, "model")),
        "task": "+".join(map(str, config.get("sequence") or [])) or _at(config, "task", "dataset"),
        "method": method,
        "rank": rank,
        "seed": config.get("seed"),
        "learning_rate": _at(config, "train", "learning_rate"),
        "scale": _scale(record, folder),
        **_searched(record),
        "diverged": _diverged(record),
        "status": record["status"],
        "reason": record.get("reason"),
    }


def _searched(record: dict[str, Any]) -> Row:
    """Return what a search says of the run's rate; one that chose another rate than the run's says nothing of it."""
    search, rate = _dict(record, "search"), _at(record, "config", "train", "learning_rate")
    if not search or search.get("chosen") is None or search["chosen"] != rate:
        return {"searched": False}
    return {
        "searched": True,
        "rates_tried": len(search["tried"]),
        "search_rates": ", ".join(f"{rate:g}" for rate in sorted(one["rate"] for one in search["tried"])),
        "search_warning": search.get("warning"),
        "search_why": search.get("why"),
    }


def _diverged(record: dict[str, Any]) -> bool:
    """Return whether the run's rate was too much for it; older records say so in their reason alone."""
    failed = record["status"] == Status.failed.value
    return failed and (bool(record.get("diverged")) or ADVICE in str(record.get("reason")))


def _model(model: dict[str, Any]) -> str | None:
    path = model.get("path")
    return Path(str(path)).name if path else model.get("name") or model.get("id")


def _scale(record: dict[str, Any], folder: Path) -> float | None:
    """Return γ of W0 + γ B A: α/r (LoRA, arXiv 2106.09685), α/√r (rsLoRA, arXiv 2312.03732); None where there is none.

    The record's own word counts first; else the adapter that was saved says which of the two it is.
    """
    if isinstance(record.get("scale"), (int, float)):
        return float(record["scale"])
    adapter = adapter_config(folder)
    alpha, rank = adapter.get("lora_alpha"), adapter.get("r")
    if not isinstance(alpha, (int, float)) or not rank or adapter.get("alpha_pattern"):
        return None
    return float(alpha) / (rank**0.5 if adapter.get("use_rslora") else rank)


def _scores(record: dict[str, Any]) -> Row:
    metric = record.get("metric")
    after, before = (_dict(record, "scores", phase, "test", str(metric)) for phase in ("after", "before"))
    return {
        "metric": metric,
        "higher_is_better": after.get("higher_is_better"),
        **{f"score{end}": after.get(key) for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))},
        **{f"base{end}": before.get(key) for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))},
        "validation": _at(record, "scores", "after", "validation", str(metric), "value"),
        "test_items": after.get("n"),
    }


def _costs(record: dict[str, Any]) -> Row:
    trainable, total = (_at(record, "parameters", name) for name in ("trainable", "total"))
    return {
        "trainable": trainable,
        "total": total,
        "trainable_share": trainable / total if trainable is not None and total else None,
        "saved_bytes": _at(record, "parameters", "saved_bytes"),
        **{name: record.get(name) for name in ("tokens", "steps", "tokens_per_second")},
        "train_seconds": _at(record, "seconds", "train"),
        "train_peak_bytes": _peak(_dict(record, "memory", "train")),
        "train_paged_bytes": _bytes(_at(record, "memory", "train", "cuda_paged_gib")),
        "evaluate_peak_bytes": _peak(_dict(record, "memory", "evaluate")),
    }


def _peak(memory: dict[str, Any]) -> float | None:
    """Return bytes: the GPU's where the run had one, else the process's."""
    return _bytes(memory.get("cuda_allocated_gib", memory.get("resident_gib")))


def _bytes(gib: float | None) -> float | None:
    return None if gib is None else gib * GIB


def _origin(record: dict[str, Any]) -> Row:
    hashes = _dict(record, "hashes", "model")
    return {
        "data_hash": _at(record, "hashes", "data"),
        "model_hash": " ".join(f"{name}:{hashes[name][:16]}" for name in sorted(hashes)) or None,
        "commit": record.get("commit"),
        "dirty": record.get("dirty"),
        "started": record.get("started"),
        "device": _at(record, "machine", "gpu") or _at(record, "machine", "processor"),
        "processor": _at(record, "machine", "processor"),
        **_conditions(record),
        "schema": record["schema_version"],
        "foreign": False,
    }


def _conditions(record: dict[str, Any]) -> Row:
    """Return what a run computed on and how; of this a record of schema 1 knows the device and the threads alone."""
    runtime, machine = _dict(record, "runtime"), _dict(record, "machine")
    precision, variables = _dict(runtime, "precision"), runtime.get("environment")
    return {
        "device_kind": runtime.get("device") or machine.get("device"),
        "threads": runtime.get("threads") or machine.get("threads"),
        **{name: runtime.get(name) for name in ("processes", "kernels", "optimizer")},
        **{f"precision_{name}": precision.get(name) for name in ("weights", "trained", "compute")},
        "precision": "trained in {trained}, computed in {compute}".format_map(precision) if precision else None,
        "environment": _variables(variables) if isinstance(variables, dict) else None,
        "mixed": ", ".join(map(str, record.get("mixed") or [])) or None,
        "restarts": record.get("restarts"),
    }


def _variables(environment: dict[str, Any]) -> str:
    return " ".join(f"{name}={environment[name]}" for name in sorted(environment)) or "none set"


def _measured(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    entries = _dict(record, "forgetting")
    return {label: entry for label, entry in entries.items() if _at(entry, "status") == "measured"}


def _forgetting(record: dict[str, Any]) -> Row:
    for label, entry in _measured(record).items():
        metric = _dict(entry, "metrics", str(entry.get("headline")))
        if metric:
            change = metric.get("delta") or _dict(metric, "after")
            return {
                "forgetting": change.get("value"),
                "forgetting_low": change.get("low"),
                "forgetting_high": change.get("high"),
                "forgetting_name": f"{label} {entry['headline']}",
                "forgetting_version": entry.get("version"),
                "forgetting_higher_is_better": change.get("higher_is_better"),
            }
    return {}


def _probes(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each probe's version and metrics; low and high are of the change, or of a metric that is itself one."""
    for label, entry in _measured(record).items():
        yield f"probe.{label}.version", entry.get("version")
        for name, metric in _dict(entry, "metrics").items():
            change = _dict(metric, "delta") or _dict(metric, "after")
            where = f"probe.{label}.{name}"
            yield f"{where}.base", _at(metric, "before", "value")
            yield f"{where}.after", _at(metric, "after", "value")
            yield f"{where}.delta", _at(metric, "delta", "value")
            yield f"{where}.low", change.get("low")
            yield f"{where}.high", change.get("high")
            yield f"{where}.higher_is_better", change.get("higher_is_better")


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; a list is one value, as JSON, and an empty dictionary none."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
