"""Time training against a plain Trainer and a hand-written loop, in turns in one process, and print ratios.

    python scripts/bench_training.py [turns=5] [steps=6] [processor=1] [outside=0]

Each turn trains a few steps by every contender on the same batches; a ratio is taken within each turn, so
that a machine whose speed drifts slows both sides of it. The targets stand beside the figures. `processor=1` counts
processor time, which other work on the machine lengthens less; with one thread it is the time on a machine without any.
`outside=0` leaves out what a run takes besides training.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from harness import runtime
from harness.compose import compose
from harness.config import RunConfig
from harness.execution import session
from harness.execution.execute import execute
from harness.execution.loading import attach, load
from harness.identity import learning_rate
from harness.meter import Meter
from harness.methods.base import trainable
from harness.objectives.base import IGNORED, Features, mask, pad
from harness.storage.record import RunFolder, read_record
from harness.training.arguments import arguments
from harness.training.order import Items, Order, order_by_length
from harness.training.trainer import HarnessTrainer, Job


class Clock(TrainerCallback):
    """Seconds between the begin and the end of training, set-up left out."""

    now = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.begin = self.seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.begin = self.now()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = self.now() - self.begin


class Bench:
    """One model and task, trained for a few steps by each contender."""

    def __init__(self, config: RunConfig, steps: int) -> None:
        self.config, self.steps, self.here = config, steps, runtime.resolve(config)
        self.prepared = session.prepare(config)
        self.features = self.prepared.features
        self.batch = config.train.per_device_train_batch_size
        lengths = [f["length"] for f in self.features]
        self.by_length = order_by_length(lengths, self.batch, self.batch * steps, config.seed)
        generator = torch.Generator().manual_seed(config.seed)
        self.at_random = torch.randperm(len(self.features), generator=generator)[: self.batch * steps].tolist()

    def model(self) -> nn.Module:
        """Return a freshly loaded and adapted model, so that no contender trains another's."""
        return self.attached()[0]

    def attached(self) -> tuple[nn.Module, Sequence[str]]:
        """Return a model as `model` does, with the modules of its head."""
        backbone = load(self.config, self.prepared, self.here)
        return attach(self.config, backbone, self.here), backbone.head

    def tokens(self, order: list[int]) -> int:
        return sum(self.features[index]["length"] for index in order)

    def harness(self) -> float:
        """Tokens/s of this project's training."""
        with tempfile.TemporaryDirectory() as folder:
            model, head = self.attached()
            place, objective, meter = RunFolder(folder, "bench"), self.prepared.objective, Meter(self.here)
            job = Job(self.config, model, head, objective, self.features, place, meter, self.here)
            trainer = HarnessTrainer(self._arguments(folder), job)
            return self._time(trainer, self.by_length)

    def plain(self, order: list[int]) -> float:
        """Tokens/s of transformers' own Trainer: labels of -100 before the answer, logits at all positions."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = PlainTrainer(
                self.model(),
                self._arguments(folder),
                train_dataset=Items(self.features),
                data_collator=self.collate,
            )
            trainer.order = order
            trainer.remove_callback(PrinterCallback)
            return self._time(trainer, order)

    def collate(self, features: list[Features]) -> dict[str, torch.Tensor]:
        """Pad as any causal-language-model collator does."""
        rows = [f["prompt"] + f["answer"] for f in features]
        labels = pad([[IGNORED] * len(f["prompt"]) + f["answer"] for f in features], IGNORED)
        return {
            "input_ids": pad(rows, self.prepared.objective.tokenizer.pad_token_id),
            "attention_mask": mask(rows),
            "labels": labels,
        }

    def _arguments(self, folder: str) -> TrainingArguments:
        return arguments(self.config, self.here, self.steps, Path(folder))

    def _time(self, trainer: Trainer, order: list[int]) -> float:
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        return self.tokens(order) / clock.seconds

    def by_hand(self) -> float:
        """Tokens/s of the shortest loop that does the same work: the same loss, clipping, schedule and optimiser."""
        model, train = self.model().train(), self.config.train
        parameters = list(trainable(model).values())
        optimiser = torch.optim.AdamW(parameters, lr=learning_rate(self.config), weight_decay=0.0)
        schedule = LambdaLR(optimiser, lambda step: 1 - step / self.steps)
        begin = Clock.now()
        for start in range(0, len(self.by_length), self.batch):
            batch = self.prepared.objective.collate(
                [self.features[i] for i in self.by_length[start : start + self.batch]]
            )
            summed = self.prepared.objective.training_loss(model, batch, train.fused_loss)
            loss = summed / self.prepared.objective.units(batch)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            loss.item()
        return self.tokens(self.by_length) / (Clock.now() - begin)


class PlainTrainer(Trainer):
    """The Trainer as it comes, but for being given the order of items."""

    order: list[int]

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return Order(self.order)


def in_turns(contenders: dict[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """Return each contender's tokens/s turn by turn; the order within a turn alternates."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns):
        names = list(contenders) if turn % 2 == 0 else list(contenders)[::-1]
        for name in names:
            found[name].append(contenders[name]())
            print(f"  turn {turn + 1}: {name:<32} {found[name][-1]:8.0f} tokens/s", flush=True)
    return found


def ratio(found: dict[str, list[float]], ours: str, other: str) -> str:
    """Return the median of the ratios within turns, and their range."""
    ratios = [a / b for a, b in zip(found[ours], found[other], strict=True)]
    return f"{statistics.median(ratios):.2f}x (from {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} turns)"


def outside(runs: int) -> list[float]:
    """Return, for each run of a sweep in one process, its seconds outside training and evaluation."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            method = ("lora", "qlora")[number % 2]
            small = ["train.max_steps=2", "train.save_steps=0", "task.max_test=16", "task.max_validation=16"]
            small += ["forgetting.documents=1", "forgetting.probes.abilities.limit=2"]
            tracked = ["tracker=wandb", "tracker.mode=offline", f"output_dir={folder}"]
            config = compose(f"method={method}", f"rank={4 + number}", *small, *tracked)
            begin = time.perf_counter()
            execute(config)
            wall = time.perf_counter() - begin
            newest = max(
                (path for path in Path(folder).iterdir() if (path / "record.json").exists()),
                key=lambda path: path.stat().st_mtime,
            )
            seconds = read_record(newest)["seconds"]
            measuring = ("train", "evaluate", "evaluate_base", "forgetting", "forgetting_base")
            found.append(wall - sum(seconds[name] for name in measuring))
    return found


def seconds_of(*arguments: str) -> float:
    """Return the wall seconds of a command line, the better of three."""
    command = [sys.executable, "-m", "harness.run", *arguments]
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run(command, capture_output=True, check=False)
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    options = {"turns": 5, "steps": 6, "processor": 0, "outside": 1} | {
        name: int(value) for name, value in (word.split("=") for word in sys.argv[1:])
    }
    if options["processor"]:
        Clock.now = staticmethod(time.process_time)
    bench = Bench(compose("tracker=none", "train.save_steps=0"), options["steps"])
    contenders = {
        "this project": bench.harness,
        "plain Trainer, same batches": lambda: bench.plain(bench.by_length),
        "plain Trainer, random batches": lambda: bench.plain(bench.at_random),
        "loop by hand": bench.by_hand,
    }
    bench.harness()  # warm caches and allocator
    found = in_turns(contenders, options["turns"])
    print("\nSmolLM2-135M, TREC, LoRA r = 16, batches of 16, ratios of tokens/s")
    print(
        "  against a plain Trainer, same batches    "
        f"{ratio(found, 'this project', 'plain Trainer, same batches')}; target 1.25x"
    )
    print(f"  against a plain Trainer, random batches  {ratio(found, 'this project', 'plain Trainer, random batches')}")
    print(f"  against a loop by hand                   {ratio(found, 'this project', 'loop by hand')}; target 0.97x")
    if not options["outside"]:
        return
    later = outside(5)
    print(
        f"  seconds of a run outside training and evaluation: first {later[0]:.1f}, "
        f"later at most {max(later[1:]):.1f}; target 3"
    )
    print(f"  --help {seconds_of('--help'):.2f} s, a misspelt method {seconds_of('method=lroa'):.2f} s; target 1.5")


if __name__ == "__main__":
    main()
