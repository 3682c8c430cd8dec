"""How sweeps stand: by made records of every state, and by a sweep that runs."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import pytest
import small_runs
from command_line import Ended, call

from harness import status
from harness.errors import ConfigError
from harness.storage import sweeps
from harness.storage.locks import exclusive, holder_of

CONFIG = {
    "model": {"name": "tiny"},
    "task": {"dataset": "trec", "max_train": 100},
    "train": {"max_steps": 9, "num_train_epochs": 3.0},
    "purpose": "result",
}


def make(runs: Path, name: str, state: str, method: str = "lora", **more: Any) -> Path:
    """Write a record of a run that stands as said."""
    folder = runs / name
    folder.mkdir(parents=True)
    record = {"schema_version": 2, "id": name, "status": state, "rank": 8, "reason": None}
    record["config"] = CONFIG | {"method": {"name": method}, "sweep": {"name": "sweep-1"}}
    (folder / "record.json").write_text(json.dumps(record | more), encoding="utf-8")
    return folder


def ago(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(time.time() - seconds, datetime.UTC).isoformat()


def note(runs: Path, *names: str, method: str = "lora") -> None:
    sweeps.note(str(runs), "sweep-1", {name: sweeps.kind(CONFIG | {"method": {"name": method}}, 8) for name in names})


def asked(*arguments: str | Path) -> Ended:
    return call(status.cli, *arguments)


def test_every_state_is_told_from_the_others(tmp_path: Path) -> None:
    make(tmp_path, "a", "done", seconds={"train": 60.0, "evaluate": 40.0})
    make(tmp_path, "b", "done", seconds={"train": 300.0})
    make(tmp_path, "c", "done", seconds={"train": 80.0, "save": 40.0})
    make(tmp_path, "slow", "done", method="full", seconds={"train": 5000.0})
    make(tmp_path, "bad", "failed", reason="ValueError: out of luck")
    make(tmp_path, "never", "not_applicable", reason="no attention")
    make(tmp_path, "cut", "running", attempts=[{"started": ago(5)}])
    (make(tmp_path, "torn", "done") / "record.json").write_text("{", encoding="utf-8")
    note(tmp_path, "a", "b", "c", "slow", "bad", "never", "cut", "torn", "now", "next")
    now = make(tmp_path, "now", "running", attempts=[{"started": ago(999)}, {"started": ago(50)}])
    (now / "history.jsonl").write_text('{"step": 3, "loss": 1.0}\n{"step": 4, "lo', encoding="utf-8")
    with exclusive(now / ".lock", now):
        found = asked(tmp_path)
    first, _, *rows = found.stdout.splitlines()
    # 120 s is the median of 100, 120 and 300: 70 s left of `now`, all of `cut` and of `next`, one at a time.
    assert first == (
        "sweep-1: 10 runs: 1 running, 1 cut, 1 waiting, 1 failed, 1 not applicable, 1 damaged, 4 done; about 5 min left"
    )
    assert [row.split()[:4] for row in rows[:3]] == [
        ["running", "now", "1", "min"],
        ["cut", "cut", "2", "min"],
        ["waiting", "next", "2", "min"],
    ]
    assert "step 3, host" in rows[0]
    assert "ValueError: out of luck" in rows[3] and "no attention" in rows[4] and "damaged" in rows[5]
    assert len(rows) == 6 and found.returncode == 0


def test_time_left_is_by_the_most_alike_and_by_the_runs_side_by_side(tmp_path: Path) -> None:
    make(tmp_path, "full-a", "done", method="full", seconds={"train": 1000.0})
    note(tmp_path, "lora-a", "lora-b", "lora-c", "lora-d")
    note(tmp_path, "full-a", method="full")
    expected = status.Expected(status.read([tmp_path])[0].runs)
    waiting = status.Run("x", tmp_path, "waiting", sweeps.kind(CONFIG | {"method": {"name": "lora"}}, 8))
    assert expected.left(waiting) == 1000  # no run of LoRA is done: those of the same model and task count
    make(tmp_path, "lora-a", "done", seconds={"train": 10.0})
    (sweep,) = status.read([tmp_path])
    expected = status.Expected(sweep.runs)
    assert expected.left(waiting) == 10
    assert status.time_left(sweep.runs, expected) == 30  # nobody runs: one after another
    both = [status.Run(name, tmp_path, "running", waiting.kind, elapsed=4.0) for name in "yz"]
    assert status.time_left([*both, waiting], expected) == pytest.approx((6 + 6 + 10) / 2)
    assert status.time_left([waiting], status.Expected([])) is None


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    folder = make(tmp_path, "a", "running")
    with exclusive(folder / ".lock", folder):
        holder = holder_of(folder / ".lock")
        assert holder is not None
        left = (folder / ".lock.holder").read_text(encoding="utf-8")
    assert holder_of(folder / ".lock") is None
    gone = json.loads(left) | {"pid": 2**22 + 1}  # above the largest that Linux gives
    (folder / ".lock.holder").write_text(json.dumps(gone), encoding="utf-8")
    assert holder_of(folder / ".lock") is None
    assert "1 cut" in asked(tmp_path).stdout


def test_runs_outside_of_noted_sweeps_and_in_deeper_folders(tmp_path: Path) -> None:
    make(tmp_path / "one", "a", "done", seconds={"train": 1.0})
    make(tmp_path / "two" / "deep", "b", "failed", reason="no")
    make(tmp_path / ".base", "hidden", "done")
    found = asked(tmp_path, "all=true").stdout
    assert found.splitlines()[0] == "sweep-1: 2 runs: 1 failed, 1 done"
    assert "hidden" not in found


def test_watch_ends_once_nothing_runs_or_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(tmp_path, "a")
    naps: list[float] = []

    def done_meanwhile(seconds: float) -> None:
        naps.append(seconds)
        make(tmp_path, "a", "done", seconds={"train": 1.0})

    monkeypatch.setattr(status.time, "sleep", done_meanwhile)
    printed = asked(tmp_path, "watch=7").stdout
    assert naps == [7.0]
    assert "1 waiting; time left not known" in printed and "1 run: 1 done" in printed


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for arguments, said in {
        ("/no/such",): "runs=/no/such: there is no such folder",
        (str(tmp_path), "wach=3"): "wach=3: no such option; did you mean watch?",
        (str(tmp_path), "watch=0"): "watch=0: must be seconds above 0",
        (str(tmp_path), "all=yes"): "all=yes: must be true or false",
        ("all=true",): "runs=: give a folder of runs",
    }.items():
        with pytest.raises(ConfigError, match=r"^[^\n]+$") as error:
            status.parse(arguments)
        assert str(error.value).startswith(said)
    assert asked("/no/such").returncode == 1
    assert "watch=10" in asked("--help").stdout
    assert asked(tmp_path).stdout == "no runs yet\n"


@pytest.mark.slow
def test_a_sweep_that_runs_is_seen(data_folder: Path, llama_folder: Path, tmp_path: Path) -> None:
    """From waiting to running, and cut once its process is killed; then done, with the table of results."""
    runs = tmp_path / "runs"
    task = small_runs.task("classification", data_folder)
    given = ["-m", "model=custom", f"model.path={llama_folder}", *task, f"output_dir={runs}", "method=lora,rslora"]
    process = small_runs.start_process(*given, "train.max_steps=4000")
    try:
        deadline = time.monotonic() + 180
        while "1 running, 1 waiting" not in asked(runs).stdout if runs.is_dir() else True:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()
    assert "2 runs: 1 cut, 1 waiting; time left not known before a run is done" in asked(runs).stdout
