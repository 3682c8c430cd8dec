"""Plan every run of PEFT's MetaMathQA suite and say how far the plan is from the memory that was measured.

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "planning"))

from peft_runs import RUNS, planned

from harness.errors import HarnessError, first_line

Row = tuple[str, float, int]
"""Name, relative error of the peak, and how many more parameters it trains than was measured."""


def rows(folder: Path) -> Iterator[Row]:
    """Plan each result file; one that cannot be planned is printed with its reason."""
    for path in sorted(folder.glob("*.json")):
        name, told = path.stem.replace("--llama-3.2-3B", ""), json.loads(path.read_text(encoding="utf-8"))
        found, settings = told["train_info"], told["run_info"]["train_config"]
        run = {"peft_config": told["run_info"]["peft_config"], **settings}
        measured = found["accelerator_memory_max"]
        try:
            peak, count = planned(run)
        except (HarnessError, RuntimeError) as error:
            print(f"| {name} | {measured / 2**30:.2f} | {first_line(error)[:90]} | | |", flush=True)
            continue
        off, more = peak.moment.total / measured - 1, count - found["num_trainable_params"]
        size, mark = peak.moment.total / 2**30, " (seen)" if name in RUNS else ""
        print(f"| {name}{mark} | {measured / 2**30:.2f} | {size:.2f} | {off:+.1%} | {more:+d} |", flush=True)
        yield name, off, more


def summary(label: str, some: list[Row]) -> str:
    """Return the median and the worst error of some runs."""
    errors = [abs(off) for _, off, _ in some]
    return f"{label}: {len(some)} runs, median |error| {median(errors):.1%}, worst {max(errors):.1%}" if some else ""


if __name__ == "__main__":
    print("| run | measured GiB | planned | error | more parameters |\n|---|---|---|---|---|")
    planned_rows = list(rows(Path(sys.argv[1])))
    print(summary("seen before", [row for row in planned_rows if row[0] in RUNS]))
    print(summary("kept aside", [row for row in planned_rows if row[0] not in RUNS]))
