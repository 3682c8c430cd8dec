"""The command line, as a user meets it: every mistake is one line, at once, and nothing is trained."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Ended, call

from harness.run import cli


def harness(*arguments: str, cwd: Path) -> Ended:
    """Run the command line in `cwd`, in this process, and return what it printed."""
    return call(cli, *arguments, cwd=cwd)


def process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in `cwd` as a user does, in a process of its own."""
    command = [sys.executable, "-m", "harness.run", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | {"WANDB_MODE": "offline"}
    )


MISTAKES = [
    (["method=lroa"], "method=lroa: no such method; did you mean lora?"),
    (["model=smollm"], "model=smollm: no such model; did you mean smollm2_135m?"),
    (["task=trek"], "task=trek: no such task; did you mean trec?"),
    (["train=defualt"], "train=defualt: no such train; did you mean default?"),
    (["metod=lora"], "metod=lora: no such key; did you mean method?"),
    (["train.max_step=3"], "train.max_step=3: no such key; did you mean max_steps?"),
    (["method.ran=3"], "method.ran=3: no such key; did you mean rank?"),
    (["rank=0"], "rank=0: must be at least 1"),
    (["rank=-1"], "rank=-1: must be at least 1"),
    (["rank=1.5"], "rank=1.5: Value '1.5' of type 'float' could not be converted to Integer"),
    (["rank=eight"], "rank=eight: Value 'eight' of type 'str' could not be converted to Integer"),
    (["seed=-1"], "seed=-1: must be from 0 to 4294967295"),
    (["train.learning_rate=0"], "train.learning_rate=0.0: must be a number above 0"),
    (["train.learning_rate_factor=0"], "train.learning_rate_factor=0.0: must be a number above 0"),
    (["train.learning_rate=nan"], "train.learning_rate=nan: must be a number above 0"),
    (["train.max_steps=0"], "train.max_steps=0: must be at least 1, or -1 to train num_train_epochs"),
    (["train.bf16=true", "train.fp16=true"], "train.fp16=True: cannot be on together with train.bf16"),
    (["train.optim=adamw_trch"], "train.optim=adamw_trch: no such optimiser; did you mean adamw_torch?"),
    (["train.lr_scheduler_type=lin"], "train.lr_scheduler_type=lin: no such schedule; did you mean linear?"),
    (["+train.other.torch_empty_cache_step=1"], "did you mean torch_empty_cache_steps?"),
    (["+train.other.report_to=wandb"], "train.other.report_to=wandb: a run decides it itself"),
    (["+train.other.max_steps=3"], "train.other.max_steps=3: write it as train.max_steps"),
    (["method.targets=qk"], "method.targets=qk: Invalid value 'qk', expected one of [all_linear, qv]"),
    (["method=qlora", "method.bits=3"], "method.bits=3: must be 4 or 8"),
    (["method=peft", "method.peft_type=IA33"], "method.peft_type=IA33: no such tuner; did you mean IA3?"),
    (
        ["model.dtype=float31"],
        "model.dtype=float31: Invalid value 'float31', expected one of [float32, bfloat16, float16]",
    ),
    (["model.path=/no/such"], "model.path=/no/such: no such model folder"),
    (["task=classification"], "task=custom: needs task.data.all.path=<file> or task.data.train.path=<file>"),
    (["task.data.all.path=/no/such.csv"], "task.data.all.path=/no/such.csv: there is no such file"),
    (["task.template='Question: {txt}'"], "task.template=Question: {txt}: has no field txt; fields are text"),
    (["task.metric=acuracy"], "task.metric=acuracy: no such metric; did you mean accuracy?"),
    (["task.validation_share=1"], "task.validation_share=1.0: must be at least 0 and below 1"),
    (["train.max_steps=["], "train.max_steps=[: not a valid override"),
    (["-m", "method=lora,lroa"], "method=lroa: no such method; did you mean lora?"),
    (["-m", "rank=8,0"], "rank=0: must be at least 1"),
    (["output_dir="], "output_dir=: must name a folder"),
]


FAST = 6
"""Of the mistakes one in so many is made in fast tests too: each composes for 1 s."""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [pytest.param(*m, marks=pytest.mark.slow if at % FAST else (), id=" ".join(m[0])) for at, m in enumerate(MISTAKES)],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    found = harness(*arguments, cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr.startswith("harness: ") and line in found.stderr
    assert found.stderr.count("\n") == 1 and not found.stdout
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["method=lroa"], ["-m", "rank=8,0"], ["metod=lora"]], ids=" ".join)
def test_a_process_says_what_a_call_of_the_entry_function_says(arguments: list[str], tmp_path: Path) -> None:
    """What the other tests here rest on: one mistake that composing finds, one of a sweep, one of Hydra's own."""
    found, called = process(*arguments, cwd=tmp_path), harness(*arguments, cwd=tmp_path)
    assert (found.returncode, found.stdout, found.stderr) == (called.returncode, called.stdout, called.stderr)
    assert found.returncode == 1


@pytest.mark.slow
def test_a_call_leaves_logging_and_the_working_folder_as_they_were(tmp_path: Path) -> None:
    handler, before = logging.FileHandler(tmp_path / "log"), (Path.cwd(), logging.getLogger().handlers[:])
    harness("-m", "rank=8,0", cwd=tmp_path)
    assert handler.stream is not None and not handler.stream.closed
    assert (Path.cwd(), logging.getLogger().handlers) == before
    handler.close()


@pytest.mark.slow
def test_dry_run_leaves_out_the_duplicates_of_methods_without_a_rank(tmp_path: Path) -> None:
    methods = "full,lora,qlora,prompt"
    found = harness("-m", f"method={methods}", "rank=8,16", "dry_run=true", cwd=tmp_path)
    lines = found.stdout.splitlines()
    assert lines[-1] == "6 runs, 2 duplicates left out: 6 to train, 0 not"
    assert sum("/lora-" in line for line in lines) == 2 and sum("/full-" in line for line in lines) == 1
    assert not list(tmp_path.rglob("record.json"))


def test_help_lists_methods_models_and_tasks(tmp_path: Path) -> None:
    found = process("--help", cwd=tmp_path)
    assert found.returncode == 0
    for word in ("lora", "adapter", "smollm2_135m", "trec", "quickstart", "dry_run=true"):
        assert word in found.stdout


@pytest.mark.slow
def test_configuration_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom harness.compose import compose\ncompose('method=qlora', 'tracker=none')\n"
        "heavy = ('torch', 'transformers', 'peft', 'wandb', 'datasets', 'pyarrow')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
