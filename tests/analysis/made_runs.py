"""Run folders as training leaves them, with scores of one's choice and without training.

Configuration, identity, versions, hashes and intervals come from the harness' own code; a test holds the keys of
every file against a run that was really trained.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import small_runs

from analysis.intruders import Settings
from analysis.spectra.intruders import tables
from analysis.spectra.intruders.analyse import Rows
from harness import runtime
from harness.config import RunConfig
from harness.execution import execute, results
from harness.forgetting.base import mean, paired
from harness.storage.record import RunFolder
from harness.tasks.base import Outcome, accuracy

MODEL = ("model=bert_tiny", "task=trec")
STEPS = 8
PHASES = ("tokenise", "load", "evaluate_base", "around_training", "train", "checkpoint", "evaluate", "save")


@dataclass(frozen=True)
class Made:
    """What a made run shall show."""

    accuracy: float = 0.8
    """Of the test split, to the nearest item."""
    validation: float | None = None
    """Of the validation split; the test split's unless given."""
    base: float = 0.3
    items: int = 200
    validation_items: int = 100
    agreement: float = 0.9
    """How far runs err on the same items: 1 is as far as their scores allow, 0 is independent."""
    forgetting: float | None = 0.1
    """Mean change of the loss that the made probe reports; None is a run without probes."""
    probe_items: int = 30
    intruders: int | None = None
    """Intruders of 60 vectors in 6 matrices; None is a run that was not analysed."""
    tokens: int = 10_000
    seconds: float = 12.0
    trainable: int = 50_000
    gib: float = 0.5
    status: str = "done"
    reason: str | None = None
    data: str = "0" * 64
    """The hash of the data."""
    sample: str = "what is this ?"
    """The text of the samples."""


def make_run(
    folder: Path | str,
    *overrides: str,
    seed: int | None = None,
    rate: float | None = None,
    made: Made | None = None,
    **record: Any,
) -> Path:
    """Write a run of this configuration and return its folder; `record` replaces top-level keys of the record.

    Seed and rate given apart spare a composition: 0.05 s a run instead of 0.2.
    """
    made = made or Made()
    config = small_runs.configure(folder, *MODEL, *overrides)
    config.seed = config.seed if seed is None else seed
    config.train.learning_rate = config.train.learning_rate if rate is None else rate
    run = RunFolder(folder, execute.identity.run_id(config))
    run.start_over()
    whole = execute._new_record(config, run, runtime.resolve(config), {"restarts": 0}) | {
        "status": made.status,
        "reason": made.reason,
        "tracker": None,
    }
    whole |= {"commit": "c" * 40, "dirty": False}  # whatever state this checkout is in
    whole |= {"traceback": f"Traceback …\n{made.reason}"} if made.status == "failed" else {}
    if made.status == "done":
        whole |= _write_results(run, config, made)
    if made.intruders is not None:
        write_intruders(run.path, made.intruders)
    run.write(whole | record)
    return run.path


def search_record(tried: dict[float, float | None], chosen: float, warning: str = "", **changed: Any) -> dict[str, Any]:
    """Return the search that a run's record has: rate → validation score in the order tried, None where it diverged."""
    outcomes_of = {
        rate: None if score is None else asdict(accuracy(outcomes(score, 100, 0))) for rate, score in tried.items()
    }
    entries = [
        {"rate": rate, "run": f"run-{rate:g}"}
        | (
            {"score": None, "reason": "the loss is nan at step 3; lower train.learning_rate or use fp32"}
            if one is None
            else {"score": one["value"], "low": one["low"], "high": one["high"], "items": one["n"], "reason": None}
        )
        for rate, one in outcomes_of.items()
    ]
    facts = {"of": "learning_rate", "configuration": "made", "split": "validation", "metric": "accuracy", "seed": 1000}
    ended = {"why": warning or "the optimum lies inside", "warning": bool(warning)}
    started = next(iter(tried))
    return facts | {"max_runs": 9, "started_from": started, "tried": entries, "chosen": chosen} | ended | changed


def make_search_run(folder: Path | str, *overrides: str, rate: float, made: Made | None = None) -> Path:
    """Write a run that only tried a rate: validation alone, no probes and no weights; return its folder."""
    path = make_run(folder, *overrides, "purpose=search", seed=1000, rate=rate, made=made)
    record = json.loads((path / "record.json").read_text(encoding="utf-8"))
    for splits in record.get("scores", {}).values():
        del splits["test"]
    (path / "record.json").write_text(json.dumps(record | {"forgetting": {}}), encoding="utf-8")
    shutil.rmtree(path / "trained", ignore_errors=True)
    return path


def make_old(folder: Path) -> Path:
    """Turn a made run into one of schema 1, which counted its attempts and did not say what it computed on."""
    path = folder / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    for name in ("runtime", "mixed", "restarts"):
        del record[name]
    del record["config"]["train"]["master_weights"]
    path.write_text(json.dumps(record | {"schema_version": 1, "attempts": 2}), encoding="utf-8")
    return folder


def make_sweep(
    folder: Path | str,
    methods: Sequence[str] = ("lora", "full"),
    ranks: Sequence[int] = (8,),
    rates: Sequence[float] = (1e-3,),
    seeds: Sequence[int] = (0, 1, 2),
    made: Callable[[str, int, float, int], Made] | None = None,
    overrides: Sequence[str] = (),
) -> list[Path]:
    """Write a run for every combination; ``made(method, rank, rate, seed)`` says what each shows."""
    cells = [(method, rank, rate, seed) for method in methods for rank in ranks for rate in rates for seed in seeds]
    return [
        make_run(
            folder,
            f"method={method}",
            f"rank={rank}",
            *overrides,
            seed=seed,
            rate=rate,
            made=made(method, rank, rate, seed) if made else Made(accuracy=0.6 + 0.1 * (method == methods[0])),
        )
        for method, rank, rate, seed in cells
    ]


def outcomes(share: float, count: int, noise_seed: int, agreement: float = 0.9, prefix: str = "t") -> list[Outcome]:
    """Return outcomes of which this share is right; the easiest items are, as far as runs agree what is easy."""
    difficulty = np.random.default_rng(0).uniform(size=count)
    noise = np.random.default_rng(noise_seed).uniform(size=count)
    order = np.argsort(agreement * difficulty + (1 - agreement) * noise)
    right = np.zeros(count, dtype=bool)
    right[order[: round(share * count)]] = True
    return [
        Outcome(f"{prefix}{number:015d}", "NUM" if hit else "LOC", "NUM", float(hit), 0.2 if hit else 1.9, 1)
        for number, hit in enumerate(right.tolist())
    ]


def _write_results(run: RunFolder, config: RunConfig, made: Made) -> dict[str, Any]:
    seed = int(execute.identity.digest(execute.identity.identity(config))[:8], 16)  # runs err differently
    shares = {"test": (made.accuracy, made.items, "t"), "validation": (made.validation, made.validation_items, "v")}
    after, before = {}, {}
    for number, (split, (share, count, prefix)) in enumerate(reversed(shares.items())):
        wanted = made.accuracy if share is None else share
        after[split] = outcomes(wanted, count, seed + number, made.agreement, prefix)
        before[split] = outcomes(made.base, count, 0, made.agreement, prefix)
    probed, forgetting = _probe(made, seed)
    run.write_items({"before": before | probed["before"], "after": after | probed["after"]})
    run.write_samples([_sample(before["test"][i], after["test"][i], made) for i in range(results.SAMPLES)])
    _write_history(run, config, made)
    _write_adapter(run, config)
    asked = {"evaluate_during_training": config.train.eval_steps, "forgetting_during_training": config.forgetting.every}
    on_the_way = tuple(section for section, every in asked.items() if every)
    return _results(made, before, after, on_the_way) | {"forgetting": forgetting}


def _results(made: Made, before: dict[str, Any], after: dict[str, Any], on_the_way: tuple[str, ...]) -> dict[str, Any]:
    # macro F1 resamples for 0.1 s a split; the accuracy stands in for it
    scored = {
        phase: {split: dict.fromkeys(("accuracy", "macro_f1"), asdict(accuracy(o))) for split, o in splits.items()}
        for phase, splits in (("before", before), ("after", after))
    }
    probes = () if made.forgetting is None else ("forgetting_base", "forgetting")
    sections = (*PHASES, *probes, *on_the_way)
    return {
        "scores": scored,
        "tokens": made.tokens,
        "tokens_per_second": made.tokens / made.seconds,
        "steps": STEPS,
        "interruptions": 0,
        "seconds": dict.fromkeys(sections, 1.0) | {"train": made.seconds},
        "memory": {section: {"resident_gib": made.gib} for section in sections},
        "hashes": {"model": {"config.json": "1" * 64, "model.safetensors": "2" * 64}, "data": made.data},
        "data": {
            "items": {"train": 1000, "validation": made.validation_items, "test": made.items},
            "dropped": {},
            "shortened": 0,
        },
        "parameters": {"total": 4_386_694, "trainable": made.trainable, "saved_bytes": 4 * made.trainable},
    }


def _probe(made: Made, seed: int) -> tuple[dict[str, dict[str, list[Outcome]]], dict[str, Any]]:
    """Return the items and the record's entry of a probe of the loss, as its code would write them."""
    if made.forgetting is None:
        return {"before": {}, "after": {}}, {}
    base = np.random.default_rng(0).uniform(2, 4, made.probe_items)
    change = made.forgetting + 0.1 * np.random.default_rng(seed).standard_normal(made.probe_items)
    change += made.forgetting - change.mean()
    series = "forgetting/lm_loss/made"
    items = {
        phase: {series: [Outcome(f"w{i}", "", "", float(v), float(v), 1) for i, v in enumerate(values)]}
        for phase, values in (("before", base), ("after", base + change))
    }
    entry = {"probe": "lm_loss", "version": 1, "status": "measured", "reason": None, "base": "3" * 16}
    metrics = {"made/loss": asdict(paired(base, base + change, mean, higher_is_better=False))}
    unfit = {"probe": "abilities", "version": 1, "status": "not_applicable", "reason": "needs a decoder", "metrics": {}}
    entry |= {"material": "4" * 64, "notes": {}, "headline": "made/loss", "metrics": metrics}
    return items, {"abilities": unfit, "lm_loss": entry}


def _sample(before: Outcome, after: Outcome, made: Made) -> dict[str, Any]:
    answers = {"base": before.prediction, "tuned": after.prediction, "reference": after.target}
    return {"item": after.item, "input": made.sample, **answers}


def _write_history(run: RunFolder, config: RunConfig, made: Made) -> None:
    every = config.train.eval_steps
    for step in range(1, STEPS + 1):
        share = step / STEPS
        line = {"step": step, "loss": 2 - share, "learning_rate": 1e-3 * (1 - share), "grad_norm": 1 + share}
        line |= {"epoch": share, "tokens": int(share * made.tokens)}
        if every and step % every == 0:
            score = made.base + share * (made.accuracy - made.base)
            line |= {"validation/accuracy": score, "validation/macro_f1": score}
            if made.forgetting is not None:
                line |= {"forgetting/lm_loss/made/loss": 3 + share * made.forgetting}
        run.append_history(line | {"seconds": round(share * made.seconds, 3)})


def _write_adapter(run: RunFolder, config: RunConfig) -> None:
    """Write the configuration of a LoRA as PEFT does, where the method has a scale; never the weights."""
    alpha = getattr(config.method, "alpha_used", None)
    if alpha is not None:
        scaled = {"use_rslora": "rslora" in config.method.name, "lora_alpha": alpha(), "r": config.method.rank_used}
        run.trained.mkdir(exist_ok=True)
        text = json.dumps({"peft_type": "LORA", "alpha_pattern": {}} | scaled)
        (run.trained / "adapter_config.json").write_text(text, encoding="utf-8")


def write_intruders(folder: Path, intruders: int, layers: int = 3, k: int = 10, eps: float = 0.5) -> Path:
    """Write the intruder tables of 2 matrices a layer, of which `intruders` vectors of k are intruders; null: none."""
    rows = Rows()
    names = [(f"layer.{layer}.{kind}", layer, kind) for layer in range(layers) for kind in ("query", "output")]
    for number, (matrix, layer, kind) in enumerate(names):
        where = {"run": folder.name, "step": None, "matrix": matrix, "layer": layer, "kind": kind, "reference": "w0"}
        here = min(k, max(0, intruders - number * k))
        rows.vectors += [where | {"control": "none"} | _vector(j, j < here, eps) for j in range(k)]
        rows.counted += [where | {"control": control, "cosines": c} for control, c in _cosines(here, k, eps).items()]
        rows.matrices.append(where | _matrix(number))
        rows.spectra += [
            where | {"of": of, "index": j, "sigma": scale * 0.8**j}
            for of, scale in (("base", 10.0), ("tuned", 10.1), ("change", 1.0))
            for j in range(k)
        ]
        rows.similarity += [
            where | {"base_index": i, "tuned_index": j, "cos": 0.9 if i == j and j >= here else 0.1}
            for i in range(k)
            for j in range(k)
        ]
        rows.angles += [
            where | {"side": side, "index": j, "cos": 0.9, "degrees": 25.8} for side in "uv" for j in range(k)
        ]
    out = folder / "analysis"
    tables.write(rows, out, Settings(runs=(str(folder),), k=k, eps=eps, spectra=True, similarity=k))
    return out


DRAWS = 20


def _cosines(intruders: int, k: int, eps: float) -> dict[str, np.ndarray]:
    """Return what is counted of one matrix; of random changes the last draw has an intruder, the others none."""
    below, above = eps / 2, (1 + eps) / 2
    own = np.where(np.arange(k) < intruders, below, above)
    random = np.full((DRAWS, 4, k), above)
    random[-1, :, 0] = below
    return {"none": np.tile(own, (1, 4, 1)), **dict.fromkeys(("spectrum", "low_rank", "dense"), random)}


def _vector(index: int, intruder: bool, eps: float) -> dict[str, Any]:
    cos = eps / 2 if intruder else (1 + eps) / 2
    facts = {"cos": cos, "cluster": cos, "bound": 1e-6, "intruder": intruder, "decided": "eigen", "energy": 0.1}
    return {"index": index, "sigma": 10 * 0.8**index} | {f"{n}_{s}": v for n, v in facts.items() for s in "uv"}


def _matrix(number: int) -> dict[str, Any]:
    shape = {"rows": 128, "columns": 128, "dtype": "float32", "rank": 8, "algorithm": "eigen"}
    norms = {"base_norm": 20.0, "change_norm": 1.0, "relative_norm": 0.05, "change_spectral_norm": 0.6}
    return shape | norms | {"change_effective_rank": 4.0 + number, "change_stable_rank": 2.8, "change_k90": 3}
