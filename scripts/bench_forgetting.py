"""Time the probes against what they stand for, in turns in one process, and print ratios.

    python scripts/bench_forgetting.py [turns=3]

Items/s of the abilities beside lm-eval's own model class on the same items and with the same batches; tokens/s of
the loss probe beside bare forward passes over the same windows; seconds that the default probes add to a run.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from harness import runtime
from harness.compose import compose
from harness.execution import session
from harness.execution.loading import load
from harness.forgetting.lm_eval_model import InMemory, quiet
from harness.forgetting.measure import Probing, fit
from harness.forgetting.predictors import inputs
from harness.forgetting.reading import batches, read
from harness.forgetting.subject import Subject, undisturbed


class Bench:
    """The default model and task, and a LoRA that has not been trained: its cost is that of one that has."""

    def __init__(self, folder: str) -> None:
        self.config = compose("tracker=none", f"output_dir={folder}")
        self.prepared = session.prepare(self.config)
        self.here = runtime.resolve(self.config)
        self.probing: Probing = fit(self.config, self.prepared, self.here)
        self.backbone = load(self.config, self.prepared, self.here)
        self.exam = self.probing.fitted["abilities"].material
        self.text = self.probing.fitted["lm_loss"].material

    def subject(self) -> Subject:
        return Subject(self.backbone.model, self.config, self.prepared)

    def lm_eval(self, scorer: Callable[[], Any]) -> float:
        """Items/s of lm-eval with a model class."""
        begin = time.perf_counter()
        with quiet(), undisturbed(self.backbone.model, self.here):
            tasks = {"tasks": self.exam.tasks}
            found = evaluate(lm=scorer(), task_dict=tasks, limit=self.exam.limit, bootstrap_iters=0)
        items = sum(len(samples) for samples in found["samples"].values())
        return items / (time.perf_counter() - begin)

    def ours(self) -> float:
        tokenizer = self.prepared.objective.tokenizer
        return self.lm_eval(lambda: InMemory(self.backbone.model, tokenizer, self.subject().batch_size))

    def theirs(self) -> float:
        tokenizer = self.prepared.objective.tokenizer
        return self.lm_eval(
            lambda: HFLM(pretrained=self.backbone.model, tokenizer=tokenizer, batch_size=self.subject().batch_size)
        )

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.text.rows)

    def loss(self) -> float:
        """Tokens/s of the loss probe's pass over the text."""
        begin = time.perf_counter()
        with undisturbed(self.backbone.model, self.here):
            read(self.subject(), self.text, head=None)
        return self.tokens / (time.perf_counter() - begin)

    def bare(self) -> float:
        """Tokens/s of forward passes over the same batches, the logits thrown away."""
        model: Any = self.backbone.model
        begin = time.perf_counter()
        with undisturbed(model, self.here):
            for part in batches(self.text.rows, 2048):
                rows = [self.text.rows[index] for index in part]
                model(**inputs(rows, int(self.prepared.objective.tokenizer.pad_token_id), model), use_cache=False)
        return self.tokens / (time.perf_counter() - begin)

    def whole(self) -> tuple[float, float]:
        """Seconds of all default probes: the base's share, and that of each run."""
        begin = time.perf_counter()
        self.probing.measure_base(lambda: self.backbone.model)
        base = time.perf_counter() - begin
        model = self.config.method.attach(self.backbone)
        begin = time.perf_counter()
        self.probing.record(self.probing.measure(model))
        return base, time.perf_counter() - begin


def in_turns(ours: Callable[[], float], other: Callable[[], float], turns: int) -> tuple[float, float, list[float]]:
    """Return both medians and the ratio of each turn; the order alternates."""
    found: list[tuple[float, float]] = []
    for turn in range(turns):
        if turn % 2:
            second = other()
            found.append((ours(), second))
        else:
            found.append((ours(), other()))
    first, second = (statistics.median(values) for values in zip(*found, strict=True))
    return first, second, [a / b for a, b in found]


def line(name: str, unit: str, beside: str, found: tuple[float, float, list[float]], target: float) -> str:
    ours, other, ratios = found
    span = f"from {min(ratios):.2f} to {max(ratios):.2f}"
    return (
        f"  {name:<12} {ours:8.1f} {unit}, {beside} {other:8.1f} {unit}: "
        f"{statistics.median(ratios):.2f}x ({span} over {len(ratios)} turns); target {target}x"
    )


def main() -> None:
    options = {"turns": 3} | {name: int(value) for name, value in (word.split("=") for word in sys.argv[1:])}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder)
        bench.loss()  # warm caches and allocator
        print(f"SmolLM2-135M, {torch.get_num_threads()} threads, {bench.tokens} tokens of general text")
        print(line("loss probe", "tokens/s", "bare forward", in_turns(bench.loss, bench.bare, options["turns"]), 0.9))
        print(line("abilities", "items/s", "lm-eval's own", in_turns(bench.ours, bench.theirs, options["turns"]), 1.0))
        base, tuned = bench.whole()
        print(f"  default probes: {base:.1f} s for the base, once a sweep; {tuned:.1f} s a run; target 25 s")


if __name__ == "__main__":
    main()
