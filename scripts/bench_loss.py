"""Compare training with and without logits, and with selective checkpointing.

Processor seconds of a step and peak of resident memory, in turns:

    python scripts/bench_loss.py [turns=3] [steps=2] [batch=16] [length=512] [method=lora]

Each turn trains the embedded decoder on language modelling by either way over the same blocks, in one process; ratios
are taken within turns, so that a machine whose speed drifts slows both. Processor time with one thread is what other
work on the machine lengthens least. The peak is that of optimiser steps alone, after the freed heap was given back;
MALLOC_MMAP_THRESHOLD_=65536 keeps glibc from holding freed tensors. The targets stand beside the figures.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from harness import runtime
from harness.compose import compose
from harness.execution import session
from harness.execution.loading import attach, load
from harness.meter import Meter
from harness.storage.record import RunFolder
from harness.training.arguments import arguments
from harness.training.trainer import HarnessTrainer, Job

PLAIN = "plain logits"
WAYS: dict[str, dict[str, bool]] = {
    PLAIN: {"fused_loss": False},
    "without logits": {"fused_loss": True},
    "without, selective": {"fused_loss": True, "selective_checkpointing": True},
}
"""What is trained by, as fields of ``train``."""


class Bench:
    """Language modelling of one model and method over blocks of one length."""

    def __init__(self, asked: dict[str, str]) -> None:
        self.steps = int(asked["steps"])
        overrides = [f"task.max_length={asked['length']}", f"train.per_device_train_batch_size={asked['batch']}"]
        overrides += [f"method={asked['method']}", "task=openwebtext", "tracker=none", "train.save_steps=0"]
        self.config = compose("model=smollm2_135m", *overrides)
        self.here = runtime.resolve(self.config)
        self.prepared = session.prepare(self.config)

    def train(self, way: dict[str, bool]) -> tuple[float, float, float]:
        """Return seconds of a step, the peak in GiB, and the loss of the last step."""
        config = replace(self.config, train=replace(self.config.train, **way))
        with tempfile.TemporaryDirectory() as folder:
            backbone = load(config, self.prepared, self.here)
            model, meter = attach(config, backbone, self.here), Meter(self.here)
            place, features = RunFolder(folder, "bench"), self.prepared.features
            job = Job(config, model, backbone.head, self.prepared.objective, features, place, meter, self.here)
            trainer = HarnessTrainer(arguments(config, self.here, self.steps, Path(folder)), job)
            runtime.free()
            begin = time.process_time()
            with meter.section("train"):
                ended = trainer.train()
            seconds = (time.process_time() - begin) / self.steps
        runtime.release()
        return seconds, meter.memory["train"]["resident_gib"], float(ended.training_loss)


def main() -> None:
    asked = {"turns": "3", "steps": "2", "batch": "16", "length": "512", "method": "lora"}
    asked |= dict(word.split("=", 1) for word in sys.argv[1:])
    bench = Bench(asked)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in WAYS}
    for turn in range(int(asked["turns"])):
        for name in list(WAYS)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(bench.train(WAYS[name]))
            seconds, peak, loss = found[name][-1]
            print(f"  {turn + 1}: {name:<18} {seconds:7.2f} s/step  {peak:6.2f} GiB  loss {loss:.6f}", flush=True)
    sizes = f"{asked['batch']} x {asked['length']} tokens"
    print(f"\nSmolLM2-135M, openwebtext, {asked['method']}, {sizes}; targets 1 and 0.5")
    for name in list(WAYS)[1:]:
        ratios = [one[0] / plain[0] for one, plain in zip(found[name], found[PLAIN], strict=True)]
        peaks = [max(one[1] for one in found[way]) for way in (name, PLAIN)]
        between = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {name} : plain  seconds {between}, peak {peaks[0]:.2f} : {peaks[1]:.2f} GiB")


if __name__ == "__main__":
    main()
