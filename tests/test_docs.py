"""The documented commands do what is said: each is composed or read, the main ones are trained in miniature."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Ended, call

from harness.run import cli
from harness.status import parse as parse_status

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "README.ko.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def commands(text: str) -> list[str]:
    """Return the lines of a page's shell blocks, without remarks."""
    shell = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL))
    return [line.split("  #")[0].strip() for line in shell.replace("\\\n", " ").splitlines() if line.strip()]


BY_PAGE = {name: commands(path.read_text(encoding="utf-8")) for name, path in zip(NAMES, PAGES, strict=True)}
COMMANDS = [command for found in BY_PAGE.values() for command in found]
RUNS = [command for command in COMMANDS if command.startswith("python -m harness.run")]
DISTINCT = list({re.sub(r" output_dir=\S+", "", command): command for command in reversed(RUNS)}.values())[::-1]
"""Commands that differ by more than where their runs stand."""
ANALYSES = sorted({command for command in COMMANDS if command.startswith("python -m analysis.")})
MAIN = "python -m harness.run -m method=lora,qlora rank=8,16,64"
QUICKSTART = "python -m harness.run -m experiment=quickstart"
TRAINED = (MAIN, QUICKSTART)
FAST = {"python -m harness.run", "python -m harness.run --cfg job", "python -m harness.run --help"}
"""Composed in fast tests too; each of the others takes 1 to 5 s."""
ELSEWHERE = {
    "tar -xf docs/studies/records/": "tests/analysis/test_studies.py unpacks them",
    "git worktree add": "a checkout of an older commit",
    "(cd ../before": "runs that older commit",
    "lm_eval run": "another project's command",
    "python -m harness.export": "tests/test_export.py runs it on trained runs",
    "python -m harness.plan": "tests/planning run it; its examples are read below",
    "python -m harness.status": "tests/test_status.py runs it; its examples are read below",
    "python scripts/": "benchmarks and studies of minutes; that they exist is tested below",
    "harness ": "tests/cli/test_pages.py reads them",
    'eval "$(harness completion': "tests/cli/test_subcommands.py runs it in bash",
    "vllm serve": "vLLM was not at hand, as the page says",
    "make ": "the targets are looked up below",
    "torchrun ": "tests of several processes start it",
}
"""Beginnings of commands that this file does not run, and why."""
MINIATURE = ["train.max_steps=1", "train.per_device_train_batch_size=2", "task.max_test=8", "task.max_train=100"]
MINIATURE += ["task.max_validation=8", "tracker=none", "train.save_steps=0", "forgetting=none"]
"""Probes are trained with on this model by the tests of forgetting: here they would be nine tenths of the time."""


def run(command: str, *more: str, cwd: Path) -> Ended:
    """Run a documented command in this process, as the interpreter would in its own."""
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
    assert len(RUNS) >= 30 and len(ANALYSES) >= 20
    assert set(TRAINED) <= set(DISTINCT)


def test_the_front_page_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("docs") and "studies" not in name])
def test_each_page_opens_with_its_question_and_an_example(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    head = text.partition("\n## ")[0]
    assert re.match(r"# .+(\?|\n\n\*.+\?\*.*)\n", text), name
    assert "```" in head or "    " in head, name


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_each_command_is_tested_or_it_is_said_why_not(command: str) -> None:
    known = ("python -m harness.run", "python -m analysis.", *ELSEWHERE)
    assert command.startswith(known), f"{command}: no test runs it; name it in ELSEWHERE with the reason"


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=() if c in FAST else pytest.mark.slow) for c in DISTINCT if c not in TRAINED],
)
def test_each_run_command_composes(command: str, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("review,stars\ngood,5\nbad,1\n", encoding="utf-8")
    for part in ("train.csv", "test.csv"):
        (tmp_path / part).write_text("sentence1,sentence2,label\na,b,3.8\n", encoding="utf-8")
    (tmp_path / "chats.jsonl").write_text('{"Description": "", "Patient": "a", "Doctor": "b"}\n', encoding="utf-8")
    (tmp_path / "my_tasks").mkdir()
    for folder in ("my_texts", "old_texts"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.txt").write_text("a text", encoding="utf-8")
    asked = [] if "--" in command else [*fewer(command), "dry_run=true"]
    command = command.removesuffix(" dry_run=true")
    found = run(last_of_each_axis(command), *asked, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout


@pytest.mark.parametrize("command", ANALYSES)
def test_each_analysis_command_is_read(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (
        "runs/answer",
        "runs/decoder",
        "runs/illusion/trec",
        "runs/illusion/steps",
        "../shared-results",
        "runs/one",
        "runs/two",
    ):
        (tmp_path / "here" / folder).mkdir(parents=True, exist_ok=True)
    for run_ in ("one", "two"):
        (tmp_path / "here" / "runs" / run_ / "record.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    ids = iter(("one", "two"))
    words = shlex.split(re.sub("<id>", lambda _: next(ids), command))
    name = words[2].removeprefix("analysis.")
    importlib.import_module(f"analysis.{name}").COMMAND.parse(words[3:])


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("python -m harness.status")}))
def test_each_status_command_is_read(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_status(shlex.split(command)[3:]).runs == ("runs/",)


def test_the_page_of_slurm_shows_the_preset() -> None:
    preset = (ROOT / "conf" / "hydra" / "launcher" / "submitit_slurm.yaml").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "clusters_slurm.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert len(shown.splitlines()) == 3 and preset.endswith(shown)


def test_fewer_combinations_still_have_every_method() -> None:
    assert fewer("python -m harness.run -m experiment=encoder_study") == ["rank=1", "seed=0"]
    assert fewer("python -m harness.run -m experiment=decoder_study") == ["rank=8", "seed=0"]
    assert fewer("python -m harness.run") == []
    swept = "python -m harness.run -m method=full,lora train.learning_rate=1e-5,1e-4 rank=8,16 sequence=[trec,boolq]"
    kept = "python -m harness.run -m method=full,lora train.learning_rate=1e-4 rank=16 sequence=[trec,boolq]"
    assert last_of_each_axis(swept) == kept


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert {"sweep", "test", "check"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_every_script_that_is_named_exists() -> None:
    every = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    scripts = set(re.findall(r"python (scripts/\w+\.py)", every))
    assert scripts and all((ROOT / script).is_file() for script in scripts)


def test_make_sweep_runs_the_main_command() -> None:
    found = subprocess.run(["make", "--dry-run", "sweep"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert MAIN in found.stdout


def test_ci_runs_the_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_linked_files_exist(name: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert all((ROOT / name).parent.joinpath(link).exists() for link in links), links


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    assert (tmp_path / "site" / "methods" / "lora" / "index.html").is_file()


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
