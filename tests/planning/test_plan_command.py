"""The command line of the planner: rows, JSON, and one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Ended, call

from harness.plan import asked, cli, configurations, labels
from harness.planning.plan import Plan, Planner

TINY = ["model=bert_tiny", "tracker=none", "forgetting=none", "task.max_length=32"]


def plan(*arguments: str, cwd: Path) -> Ended:
    return call(cli, *arguments, cwd=cwd)


@pytest.mark.slow
def test_a_sweep_prints_a_row_a_configuration_and_writes_them(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    found = plan("-m", *TINY, "method=full,lora", "rank=4,8", "gpu=24GiB", f"out={out}", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    heading, *rows, footer = found.stdout.splitlines()
    assert heading.split()[:3] == ["configuration", "batch", "trainable"]
    assert [row.split()[:2] for row in rows] == [
        ["method=full", "rank=4"],
        ["method=lora", "rank=4"],
        ["method=lora", "rank=8"],
    ]
    assert "24.0 GiB" in footer
    written: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    full, small, large = written["rows"]
    assert full["peak_bytes"] > large["peak_bytes"] > small["peak_bytes"] > 0
    assert large["trainable"] > small["trainable"]
    assert {row["fits"] for row in written["rows"]} == {"yes"}


@pytest.mark.slow
def test_an_interruption_is_one_line_and_the_rows_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = Planner.plan

    def interrupted(planner: Planner, batch_size: int | None = None) -> Plan:
        if planner.config.method.name == "lora":
            raise KeyboardInterrupt
        return planned(planner, batch_size)

    monkeypatch.setattr(Planner, "plan", interrupted)
    out = tmp_path / "plan.json"
    found = plan("-m", *TINY, "method=full,lora", "rank=4", f"out={out}", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (130, "harness: interrupted with 1 of 2 configurations planned\n")
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["configuration", "method=full", "estimates;"]
    assert not out.exists(), "a part would look like the whole"


@pytest.mark.slow
def test_what_does_not_apply_says_why_beside_the_others(tmp_path: Path) -> None:
    found = plan("-m", "model=llama2_7b", "method=bitfit,prompt", "task.max_length=16", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    first, second = found.stdout.splitlines()[1:3]
    assert first.split(maxsplit=1)[1].startswith("not applicable: the model has no biases")
    assert "81,920" in second, "20 virtual tokens of width 4096"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["gpu=24"], "harness: gpu=24: has no unit"),
        (["gpu=l50s"], "harness: gpu=l50s: no such card; did you mean l40s?"),
        (["batch=16", "gpu=24GiB"], "harness: batch=16: must be max; a size is train.per_device_train_batch_size"),
        (["batch=max"], "harness: batch=max: needs the card's memory"),
        (["--config-dir", "nowhere"], "harness: --config-dir=nowhere: there is no such folder"),
        (["method=lroa"], "harness: method=lroa: no such method; did you mean lora?"),
        (["rank=0"], "harness: rank=0: must be at least 1"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    found = plan(*arguments, cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr.startswith(line)
    assert found.stderr.count("\n") == 1


def test_the_planners_keys_are_taken_from_the_command_line() -> None:
    found = asked(["-m", "method=lora,full", "gpu=24GiB", "out=plan.json", "batch=max", "rank=8"])
    assert found.overrides == ["method=lora,full", "rank=8"]
    assert (found.gpu, found.batch, found.out) == ("24GiB", "max", "plan.json")


def test_a_row_is_labelled_by_what_sets_it_apart() -> None:
    assert labels([["a=1", "b=1"], ["a=1", "b=2"]]) == ["b=1", "b=2"]
    assert labels([["a=1"]]) == ["a=1"]
    assert labels([[]]) == ["defaults"]


def test_help_names_the_keys(tmp_path: Path) -> None:
    found = plan("--help", cwd=tmp_path)
    assert found.returncode == 0
    assert all(f"{key}=" in found.stdout for key in ("gpu", "batch", "out"))


def test_a_folder_of_ones_own_configurations_is_searched(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [llama2_7b, _self_]\nname: mine\n", encoding="utf-8")
    ((job, config),) = configurations(["model=mine"], str(tmp_path))
    assert (config.model.name, job) == ("mine", ["model=mine"])
    assert asked(["--config-dir", str(tmp_path)]).config_dir == asked([f"--config-dir={tmp_path}"]).config_dir
