"""Plan every run of PEFT's MetaMathQA suite and say how far the plan is from measured memory and seconds.

    git clone --filter=blob:none https://github.com/huggingface/peft
    python scripts/plan_suite.py peft/method_comparison/MetaMathQA/results    # about 10 s a run on one core

Those of ``tests/planning/peft_suite.json`` are marked: the planner was made with them in view. The others were not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "planning"))

from peft_runs import RUNS, planned

from harness.errors import HarnessError, first_line


class Row(NamedTuple):
    """A planned run."""

    name: str
    peak: float
    """Relative error of the peak."""
    slower: float
    """Factor by which a measured step took longer than planned."""


def rows(folder: Path) -> Iterator[Row]:
    """Plan each result file; one that cannot be planned is printed with its reason."""
    for path in sorted(folder.glob("*.json")):
        name, told = path.stem.replace("--llama-3.2-3B", ""), json.loads(path.read_text(encoding="utf-8"))
        found, settings = told["train_info"], told["run_info"]["train_config"]
        run = {"peft_config": told["run_info"]["peft_config"], **settings}
        measured, step = found["accelerator_memory_max"], seconds(found["metrics"])
        try:
            plan = planned(run)
        except (HarnessError, RuntimeError) as error:
            print(f"| {name} | {measured / 2**30:.2f} | {first_line(error)[:90]} | | | | | |", flush=True)
            continue
        row = Row(name, plan.total / measured - 1, step / plan.step_seconds)
        mark, more = " (seen)" if name in RUNS else "", plan.trainable - found["num_trainable_params"]
        memory = f"{measured / 2**30:.2f} | {plan.total / 2**30:.2f} | {row.peak:+.1%} | {more:+d}"
        print(f"| {name}{mark} | {memory} | {step:.3f} | {plan.step_seconds:.3f} | {row.slower:.2f} |", flush=True)
        yield row


def seconds(metrics: list[dict[str, Any]]) -> float:
    """Return the measured seconds of a step, without the evaluations between."""
    parts = [one for one in metrics if "train time" in one]
    return float(sum(one["train time"] for one in parts) / parts[-1]["step"])


def summary(label: str, some: list[Row]) -> str:
    """Return the median and the worst error of some runs."""
    if not some:
        return ""
    errors, slower = [abs(row.peak) for row in some], [row.slower for row in some]
    off = median(abs(one - 1) for one in slower)
    return (
        f"{label}: {len(some)} runs; peak: median |error| {median(errors):.1%}, worst {max(errors):.1%}; "
        f"seconds: median |error| {off:.0%}, factors {min(slower):.2f} to {max(slower):.2f}"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2 or not any(Path(sys.argv[1]).glob("*.json")):
        sys.exit("plan_suite: give the folder with the suite's result files (*.json)")
    print("| run | measured GiB | planned | error | more parameters | measured s/step | planned | factor |")
    print("|---|---|---|---|---|---|---|---|")
    planned_rows = list(rows(Path(sys.argv[1])))
    print(summary("seen before", [row for row in planned_rows if row.name in RUNS]))
    print(summary("kept aside", [row for row in planned_rows if row.name not in RUNS]))
