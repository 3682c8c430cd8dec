"""One run, from configuration to record."""

from __future__ import annotations

import datetime
import gc
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import transformers
from torch import nn

from harness import identity, progress, track
from harness.config import RunConfig
from harness.errors import HarnessError, NotApplicable, RecordError, TrainingError, first_line
from harness.execution import machine, session
from harness.execution.evaluate import HELD_OUT, Baseline, Outcomes, Questions, answer, scores
from harness.execution.machine import Meter
from harness.execution.session import Prepared
from harness.forgetting.events import Events
from harness.forgetting.measure import Probing, fit
from harness.methods.base import trainable
from harness.models import Backbone, device_of, load_backbone
from harness.storage.files import disk_full, new_folder
from harness.storage.privacy import expanded
from harness.storage.record import SCHEMA_VERSION, RunFolder, Status
from harness.table import summary
from harness.track import Tracker
from harness.training.checkpoint import finish_checkpoints
from harness.training.train import Trained, train
from harness.training.watch import Clock, Watch

SAMPLES = 8
FINAL = (Status.done, Status.not_applicable)


def execute(config: RunConfig) -> Status | None:
    """Train, evaluate and record one run; skip what is done, resume what was cut, retry what failed.

    Returns None where another process is training it and ``sweep.wait`` is off. A run that fails leaves
    a failed record and does not raise; an interruption leaves it resumable and does. Where no record can
    be trusted or written, that is said, and what is there is left as it is.
    """
    folder = RunFolder(config.output_dir, identity.run_id(config))
    try:
        with folder.lock(config.sweep.wait) as mine, settings_kept():
            return _next_attempt(config, folder) if mine else None
    except (RecordError, OSError) as error:
        progress.say(f"{folder.id}: failed: {_one_line(error)}")
        return Status.failed
    finally:
        release()


def release() -> None:
    """Free the run's model now: it hangs in a ring of objects with its Trainer, and the next one needs the room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put torch's settings back that ``train.full_determinism`` and ``train.tf32`` change for the whole process."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    deterministic, tf32 = torch.are_deterministic_algorithms_enabled(), (cuda.allow_tf32, cudnn.allow_tf32)
    cudnn_before = (cudnn.deterministic, cudnn.benchmark)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        cuda.allow_tf32, cudnn.allow_tf32 = tf32
        cudnn.deterministic, cudnn.benchmark = cudnn_before


def _next_attempt(config: RunConfig, folder: RunFolder) -> Status:
    status = folder.status()
    if status is Status.failed:
        folder.start_over()
    if status not in FINAL:
        status = _attempt(config, folder)
    if status is Status.done:  # only now: a run cut before its record was written resumes from them
        finish_checkpoints(folder.checkpoints, config.train.keep_checkpoints)
        folder.finish_stages(config.train.keep_checkpoints)
    return status


def _attempt(config: RunConfig, folder: RunFolder) -> Status:
    record = _new_record(config, folder)
    folder.write(record)
    tracker = track.start(config, record["config"], folder.id, folder.path, record.get("restarts", 0))
    ended = "interrupted"
    try:
        record |= _outcome_of(config, folder, tracker) | {"tracker": tracker.url_or_folder}
        folder.write(record)
        ended = record["status"]
        progress.say(f"[{config.sweep.index}/{config.sweep.total}] {folder.id}: {summary(record)}")
        tracker.summarise(record)
    finally:
        tracker.finish(ended)
    return Status(ended)


def _outcome_of(config: RunConfig, folder: RunFolder, tracker: Tracker) -> dict[str, Any]:
    """Return what the run adds to its record: results, or why there are none."""
    try:
        return _work(config, folder, tracker) | {"status": Status.done.value}
    except NotApplicable as error:
        return {"status": Status.not_applicable.value, "reason": str(error)}
    except (TrainingError, HarnessError) as error:
        return _failure(str(error))
    except torch.cuda.OutOfMemoryError as error:
        return _failure(f"out of GPU memory: {first_line(error)}; lower train.per_device_train_batch_size")
    except Exception as error:  # one failed run must not stop a sweep: its record says what happened
        return _failure(_one_line(error))


def _one_line(error: Exception) -> str:
    if disk_full(error):
        return "no space left on the disk"
    if isinstance(error, HarnessError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"


def _failure(reason: str) -> dict[str, Any]:
    return {"status": Status.failed.value, "reason": reason, "traceback": traceback.format_exc()}


def _new_record(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    commit, dirty = identity.commit()
    previous = folder.read() or {}
    return {
        "schema_version": SCHEMA_VERSION,
        "id": folder.id,
        "status": Status.running.value,
        "reason": None,
        "rank": config.method.rank_used,
        "metric": config.task.metric,
        "started": previous.get("started") or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "attempts": previous.get("attempts", 0) + 1,
        "config": identity.resolved(config),
        "identity": identity.identity(config),
        "versions": machine.versions(),
        "commit": commit,
        "dirty": dirty,
        "machine": machine.describe(device_of(config.train.use_cpu)),
    }


def _work(config: RunConfig, folder: RunFolder, tracker: Tracker) -> dict[str, Any]:
    if config.sequence:
        from harness.execution.sequence import work  # which is built on this module

        return work(config, folder, tracker)
    device = device_of(config.train.use_cpu)
    meter = Meter(device)
    with meter.phase("tokenise"):
        prepared = session.prepare(config)
        probing = fit(config, prepared)
    with meter.phase("load"):
        backbone = load(config, prepared)
    with meter.phase("evaluate_base"):
        before = base_outcomes(config, prepared, backbone, device)
    with forgetting_phase(meter, probing, "forgetting_base"):
        probing.measure_base(lambda: untouched(config, prepared, backbone).to(device))
    with meter.phase("load"):
        total = sum(map(size, backbone.model.parameters()))
        model = attach(config, backbone, device)
        parameters = {"total": total, "trainable": sum(map(size, trainable(model).values()))}
    with meter.phase("train"):
        trained = learn(config, prepared, probing, model, backbone.head, folder, tracker)
    with meter.phase("evaluate"):
        after = answer(model, prepared.objective, prepared.questions, config.train, "evaluate")
    with forgetting_phase(meter, probing, "forgetting"):
        found = probing.measure(model)
        lost = probing.record(found)
    events, event_items = Events(folder.path).results()
    with meter.phase("save"):
        parameters["saved_bytes"] = keep(config, model, folder)
        kept = {"before": probing.items(probing.base), "after": probing.items(found) | event_items}
        samples = keep_outcomes(folder, prepared, before, after, kept)
    tracker.samples(samples)
    tracker.adapter(folder.trained)
    return results(config, prepared, before, after, trained, meter) | {
        "parameters": parameters,
        "forgetting": lost | events,
    }


def forgetting_phase(meter: Meter, probing: Probing, name: str) -> AbstractContextManager[None]:
    """Measure a phase of probes; a run without any has no such phase."""
    return meter.phase(name) if probing.fitted else nullcontext()


def load(config: RunConfig, prepared: Prepared) -> Backbone:
    """Load the model as the method wants it; raise :class:`NotApplicable` where the method does not fit it."""
    outputs, quantization = prepared.objective.outputs, config.method.quantization()
    backbone = load_backbone(prepared.files, config.model, outputs, quantization, config.seed)
    reason = config.method.unsuitable(backbone)
    if reason is not None:
        raise NotApplicable(reason)
    return backbone


def attach(config: RunConfig, backbone: Backbone, device: torch.device) -> nn.Module:
    """Attach the method to a loaded base; what it draws at random comes from the run's seed alone."""
    transformers.set_seed(config.seed)
    return config.method.attach(backbone).to(device)


def base_outcomes(config: RunConfig, prepared: Prepared, backbone: Backbone, device: torch.device) -> Outcomes:
    """Return the untouched model's outcomes, computed by the first run that needs them.

    Untouched means in full precision: what quantisation costs is part of what QLoRA is charged with.
    """
    shared: dict[str, Any] = {
        "model": prepared.files.hashes | {"dtype": config.model.dtype.value},
        "task": identity.task_identity(config.task),
        "items": prepared.splits.fingerprint(),
        "precision": [config.train.bf16, config.train.fp16, device.type],
        "batch": config.train.per_device_eval_batch_size,
        "kind": backbone.kind,
        "head_seed": config.seed if backbone.head else None,
    }
    baseline = Baseline(expanded(config.output_dir) / ".base", shared)
    with baseline.lock():
        found = baseline.read()
        if found is None:
            found = answer(
                untouched(config, prepared, backbone).to(device),
                prepared.objective,
                prepared.questions,
                config.train,
                "base",
            )
            baseline.write(found)
    return found


def untouched(config: RunConfig, prepared: Prepared, backbone: Backbone) -> nn.Module:
    """Return the model as its files have it, loaded again where this run's copy is quantised."""
    if config.method.quantization() is None:
        return backbone.model
    return load_backbone(prepared.files, config.model, prepared.objective.outputs, None, config.seed).model


def learn(
    config: RunConfig,
    prepared: Prepared,
    probing: Probing,
    model: nn.Module,
    head: Sequence[str],
    folder: RunFolder,
    tracker: Tracker,
) -> Trained:
    """Train, with history, tracker and, where asked, evaluations and probes along the way."""
    every = (config.train.eval_steps, config.forgetting.every)
    asked = followed(config, prepared) if any(every) else {}
    events = Events(folder.path)

    def evaluate(step: int) -> dict[str, float]:
        outcomes = answer(model, prepared.objective, asked, config.train, "evaluate")
        if config.forgetting.active:
            events.add(step, outcomes)
        scored = prepared.task.score(outcomes["validation"])
        found = {f"validation/{name}": score.value for name, score in scored.items()}
        return found | (probing.history(probing.measure(model)) if probes_due(config, step) else {})

    def watch(bar: progress.Bar, clock: Clock, per_epoch: float) -> Watch:
        return Watch(folder, bar, clock, per_epoch, tracker.log, evaluate, every)

    label = f"[{config.sweep.index}/{config.sweep.total}] {folder.id}"
    return train(model, prepared.objective, prepared.features, config, folder, head, watch, label)


def probes_due(config: RunConfig, step: int) -> bool:
    """Return whether probes run after this step; after the last one they do in any case."""
    every = config.forgetting.every
    return every > 0 and step % every == 0


def followed(config: RunConfig, prepared: Prepared) -> Questions:
    """Return what is answered along the way: the validation split, and for forgetting events some training items."""
    asked = {"validation": prepared.questions["validation"]}
    items = prepared.splits.train[: config.forgetting.train_items] if config.forgetting.active else []
    return asked | ({"train": prepared.objective.questions(items)} if items else {})


def keep(config: RunConfig, model: nn.Module, folder: RunFolder) -> int:
    """Write the trained state and return its size in bytes."""
    with new_folder(folder.trained) as target:
        config.method.save(model, target)
    return sum(path.stat().st_size for path in folder.trained.rglob("*.safetensors"))


def keep_outcomes(
    folder: RunFolder, prepared: Prepared, before: Outcomes, after: Outcomes, probed: dict[str, Outcomes]
) -> list[dict[str, Any]]:
    """Write every item's outcome, what probes found of them included, and a few with their text for people to read."""
    folder.write_items({"before": before | probed["before"], "after": after | probed["after"]})
    inputs = {item.id: prepared.objective.show(item) for item in prepared.splits.test[:SAMPLES]}
    base = {outcome.item: outcome.prediction for outcome in before["test"]}
    rows = [
        {
            "item": o.item,
            "input": inputs[o.item],
            "base": base.get(o.item),
            "tuned": o.prediction,
            "reference": o.target,
        }
        for o in after["test"]
        if o.item in inputs
    ]
    folder.write_samples(rows)
    return rows


def results(
    config: RunConfig, prepared: Prepared, before: Outcomes, after: Outcomes, trained: Trained, meter: Meter
) -> dict[str, Any]:
    """Return what a record says of a run that is done, but for its parameters and what was lost."""
    splits = prepared.splits
    # Steps alone: probes along the way would make a method that is measured more often look dearer.
    here = trained.seconds - trained.earlier_seconds
    seconds = meter.seconds | {"train": trained.seconds, "around_training": meter.seconds["train"] - here}
    return {
        "scores": {"before": scores(config.task, before), "after": scores(config.task, after)},
        "tokens": trained.tokens,
        "tokens_per_second": trained.tokens / trained.seconds,
        "steps": trained.steps,
        "interruptions": trained.interruptions,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "memory": meter.memory,
        "hashes": {"model": prepared.files.hashes, "data": splits.fingerprint()},
        "data": {
            "items": {"train": len(splits.train)} | {split: len(getattr(splits, split)) for split in HELD_OUT},
            "dropped": splits.dropped,
            "shortened": prepared.objective.shortened,
        },
    }


def size(parameter: torch.Tensor) -> int:
    """Return a parameter's number of values; bitsandbytes packs two of 4 bits in a byte, the true shape aside."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()
