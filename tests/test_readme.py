"""The README's commands do what it says: each is composed, and the main one is trained in miniature."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Ended, call

from harness.run import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL))
COMMANDS = [line.split("  #")[0].strip() for line in SHELL.replace("\\\n", " ").splitlines()]
RUNS = [command for command in COMMANDS if command.startswith("python -m harness.run")]
DISTINCT = list({re.sub(r" output_dir=\S+", "", command): command for command in reversed(RUNS)}.values())[::-1]
"""Commands that differ by more than where their runs stand."""
MAIN = "python -m harness.run -m method=lora,qlora rank=8,16,64"
QUICKSTART = "python -m harness.run -m experiment=quickstart"
TRAINED = (MAIN, QUICKSTART)
FAST = {"python -m harness.run", "python -m harness.run --cfg job", "python -m harness.run --help"}
"""Composed in fast tests too; each of the others takes 1 to 5 s."""
MINIATURE = ["train.max_steps=1", "train.per_device_train_batch_size=2", "task.max_test=8", "task.max_train=100"]
MINIATURE += ["task.max_validation=8", "tracker=none", "train.save_steps=0", "forgetting=none"]
"""Probes are trained with on this model by the tests of forgetting: here they would be nine tenths of the time."""


def run(command: str, *more: str, cwd: Path) -> Ended:
    """Run a README command in this process, as the interpreter would in its own."""
    return call(cli, *shlex.split(command)[3:], *more, cwd=cwd)


def fewer(command: str) -> list[str]:
    """Return overrides that keep an experiment's every method and of its other axes the first value.

    Each of the 81 combinations of `encoder_study` takes 0.3 s to compose, and a seed composes as the next.
    """
    named = re.search(r"experiment=(\w+)", command)
    if named is None:
        return []
    return [f"{key}={str(values).split(',')[0]}" for key, values in axes_of(named[1]).items() if key != "method"]


def axes_of(experiment: str) -> dict[str, Any]:
    """Return what an experiment sweeps, with what those that it builds on sweep."""
    said = yaml.safe_load((ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"))
    parents = [name for name in said.get("defaults", ()) if isinstance(name, str) and name != "_self_"]
    inherited = {key: values for name in parents for key, values in axes_of(name).items()}
    return inherited | said["hydra"]["sweeper"]["params"]


def last_of_each_axis(command: str) -> str:
    """Return a sweep's command with every method and of its numbers' axes the last value, for the same reason."""
    return re.sub(r"(?<= )((?!method)[\w.]+=)(?:[\d.e-]+,)+(?=[\d.e-]+)", r"\1", command)


def table(printed: str) -> list[str]:
    """Return the rows of the result table; a remark may follow them."""
    lines = printed.splitlines()
    (header,) = [number for number, line in enumerate(lines) if line.split()[:2] == ["method", "rank"]]
    return [line for line in lines[header + 1 :] if not line.startswith(("one learning rate", "warning: "))]


def test_there_are_commands() -> None:
    assert len(RUNS) >= 8
    assert set(TRAINED) <= set(DISTINCT)


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=() if c in FAST else pytest.mark.slow) for c in DISTINCT if c not in TRAINED],
)
def test_each_run_command_composes(command: str, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("review,stars\ngood,5\nbad,1\n", encoding="utf-8")
    (tmp_path / "my_tasks").mkdir()
    asked = [] if "--" in command else [*fewer(command), "dry_run=true"]
    found = run(last_of_each_axis(command), *asked, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout


def test_fewer_combinations_still_have_every_method() -> None:
    assert fewer("python -m harness.run -m experiment=encoder_study") == ["rank=1", "seed=0"]
    assert fewer("python -m harness.run -m experiment=decoder_study") == ["rank=8", "seed=0"]
    assert fewer("python -m harness.run") == []
    swept = "python -m harness.run -m method=full,lora train.learning_rate=1e-5,1e-4 rank=8,16 sequence=[trec,boolq]"
    kept = "python -m harness.run -m method=full,lora train.learning_rate=1e-4 rank=16 sequence=[trec,boolq]"
    assert last_of_each_axis(swept) == kept


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert {"sweep", "test", "check"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_make_sweep_runs_the_main_command() -> None:
    found = subprocess.run(["make", "--dry-run", "sweep"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert MAIN in found.stdout


def test_ci_runs_the_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_files_the_readme_names_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert {"CONTRIBUTING.md", "constraints.txt"} <= set(links)
    assert all((ROOT / link).exists() for link in links)


@pytest.mark.slow
def test_the_main_command_trains_six_runs_and_prints_their_table(short_smollm2: Path, tmp_path: Path) -> None:
    miniature = [*MINIATURE, "model=custom", f"model.path={short_smollm2}"]
    found = run(MAIN, *miniature, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    rows = [line.split() for line in table(found.stdout)]
    assert [row[:2] for row in rows] == [[method, rank] for method in ("lora", "qlora") for rank in ("8", "16", "64")]
    again = run(MAIN, *miniature, cwd=tmp_path)
    assert table(again.stdout) == table(found.stdout)


@pytest.mark.slow
def test_quickstart_trains_every_method(tmp_path: Path) -> None:
    found = run(QUICKSTART, *MINIATURE, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    methods = {line.split()[0] for line in table(found.stdout)}
    assert methods == {"full", "head_only", "lora", "rslora", "qlora", "prefix", "prompt", "bitfit", "adapter"}
