"""Runs side by side: each in a process of its own, on a GPU and threads of its own; nothing outlives the sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import small_runs

from harness.errors import ConfigError
from harness.launching import local
from harness.launching.local import Place, Pool, places
from harness.storage.record import read_record

SCRIPT = """
import json, os, subprocess, sys, time
from harness.launching import child
given = child._received()
task, folder = given.config.rank, sys.argv[2]
began = time.time()
names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
open(f"{folder}/{task}.begun", "w").write(json.dumps([os.getpid(), began, *map(os.environ.get, names)]))
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(f"{folder}/{task}.helper", "w").write(str(helper.pid))
WORK
helper.kill()
open(f"{folder}/{task}.ended", "w").write(str(time.time()))
open(sys.argv[1], "w").write(json.dumps("done"))
"""


def pool(free: Sequence[Place], folder: Path, work: str = "time.sleep(0.5)") -> Pool:
    """Return a pool whose processes do something small in place of a run."""
    script = SCRIPT.replace("WORK", work)
    made = Pool(list(free), {"version": 1})
    made.command = lambda result: [sys.executable, "-c", script, str(result), str(folder)]
    return made


def configs(folder: Path, count: int) -> list:
    return [small_runs.configure(folder / "runs", "model=bert_tiny", f"rank={rank}") for rank in range(1, count + 1)]


def begun(folder: Path) -> dict[int, list]:
    return {int(path.stem): json.loads(path.read_text()) for path in folder.glob("*.begun")}


def runs(pid: int) -> bool:
    """Return whether a process is there and no zombie: nobody here collects a grandchild."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_places_are_gpus_or_cores_with_threads_divided() -> None:
    assert places("auto", ["0", "1"], 16, 6) == [Place("0", 8), Place("1", 8)]
    assert places("auto", [], 4, 6) == [Place(None, 1)] * 4
    assert places("auto", [], 16, 3) == [Place(None, 5)] * 3  # no more than there are runs
    assert places(3, [], 8, 6) == [Place(None, 2)] * 3
    assert [place.gpu for place in places(4, ["5", "7"], 4, 9)] == ["5", "7", "5", "7"]
    assert places(6, [], 2, 6) == [Place(None, 1)] * 6


@pytest.mark.parametrize("asked", [0, -1, "two", 1.5, True, None])
def test_a_number_of_runs_that_is_none_is_refused(asked: object) -> None:
    with pytest.raises(ConfigError, match=r"^hydra\.launcher\.n_jobs=.*: must be auto or at least 1$"):
        local.require_jobs(asked)


def test_environment_keeps_the_threads_that_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert Place("1", 8).environment() == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert Place(None, 8).environment() == {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "8"}


def test_each_run_has_a_process_and_a_gpu_and_no_two_share_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    gpus = [Place("3", 2), Place("5", 2)]
    assert pool(gpus, tmp_path).run(configs(tmp_path, 5)) == ["done"] * 5
    found = begun(tmp_path)
    assert len({process for process, *_ in found.values()}) == 5
    assert {gpu for *_, gpu, _ in found.values()} == {"3", "5"}
    assert {threads for *_, threads in found.values()} == {"2"}
    spans = {n: (found[n][1], float((tmp_path / f"{n}.ended").read_text()), found[n][2]) for n in found}
    overlaps = [
        (a, b) for a in spans for b in spans if a < b and spans[a][0] < spans[b][1] and spans[b][0] < spans[a][1]
    ]
    assert overlaps and all(spans[a][2] != spans[b][2] for a, b in overlaps)


def test_a_process_that_dies_spoils_no_other_and_leaves_none_behind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = "os.kill(os.getpid(), 11) if task == 2 else sys.exit(7) if task == 3 else None"
    assert pool([Place(None, 1)] * 2, tmp_path, work).run(configs(tmp_path, 4)) == ["done", "failed", "failed", "done"]
    said = capfd.readouterr().err
    assert "its process ended: SIGSEGV" in said and "its process ended: exit code 7" in said
    for path in tmp_path.glob("*.helper"):
        until(lambda path=path: not runs(int(path.read_text())))


def test_a_killed_run_has_a_failed_record_that_says_so(tmp_path: Path) -> None:
    (config,) = configs(tmp_path, 1)
    folder = small_runs.folder_of(config)
    folder.mkdir(parents=True)
    record = {"schema_version": 2, "id": folder.name, "status": "running", "config": {}}
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    assert pool([Place(None, 1)], tmp_path, "os.kill(os.getpid(), 9)").run([config]) == ["failed"]
    found = read_record(folder)
    assert found["status"] == "failed" and found["reason"] == "its process ended: SIGKILL, out of memory?"


def test_ctrl_c_ends_all_processes_and_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_SECONDS", 1.0)
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN) if task == 1 else None\ntime.sleep(60)"

    def interrupt() -> None:
        until(lambda: len(list(tmp_path.glob("*.helper"))) == 2)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool([Place(None, 1)] * 2, tmp_path, deaf).run(configs(tmp_path, 3))
    assert time.monotonic() - began < 40
    assert set(begun(tmp_path)) == {1, 2}  # the third never began
    pids = [process for process, *_ in begun(tmp_path).values()]
    pids += [int(path.read_text()) for path in tmp_path.glob("*.helper")]
    until(lambda: not any(map(runs, pids)))


@pytest.fixture
def tiny(data_folder: Path, llama_folder: Path, tmp_path: Path) -> list[str]:
    task = small_runs.task("classification", data_folder)
    place = [f"model.path={llama_folder}", f"output_dir={tmp_path / 'runs'}"]
    return ["-m", "hydra/launcher=local", "model=custom", *place, *task]


@pytest.mark.slow
def test_a_sweep_side_by_side_is_the_sweep_one_after_another(tiny: list[str], tmp_path: Path) -> None:
    swept = ["method=lora,head_only", "seed=0,1", "train.max_steps=4"]
    process = small_runs.start_process(*tiny, *swept, "hydra.launcher.n_jobs=2", "hydra.launcher.gpus=[6,7]")
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    rows = [line for line in printed.splitlines() if line.startswith(("lora ", "head_only "))]
    assert len(rows) == 4 and all("accuracy" in row for row in rows)
    basic = [word.replace(str(tmp_path / "runs"), str(tmp_path / "basic")) for word in tiny if "launcher" not in word]
    process = small_runs.start_process(*basic, *swept)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    for path in (tmp_path / "runs").glob("*/record.json"):
        small_runs.assert_same_run(path.parent, tmp_path / "basic" / path.parent.name)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_ended_leaves_no_process_and_goes_on(
    how: signal.Signals, tiny: list[str], tmp_path: Path
) -> None:
    """Also where the sweep itself is killed: its runs see that it is gone."""
    swept = ["method=lora", "seed=0,1", "train.max_steps=2000", "train.save_steps=5", "hydra.launcher.n_jobs=2"]
    process = small_runs.start_process(*tiny, *swept)
    try:
        until_saved(tmp_path / "runs", process)
    finally:
        process.send_signal(how)
        process.communicate(timeout=60)
    pids = [json.loads(path.read_text())["pid"] for path in (tmp_path / "runs").glob("*/.lock.holder")]
    assert process.returncode == (130 if how is signal.SIGINT else -how)
    until(lambda: not any(map(runs, pids)))
    records = [read_record(path.parent) for path in (tmp_path / "runs").glob("*/record.json")]
    assert [record["status"] for record in records] == ["running"] * 2  # cut: the same command goes on with both


def until_saved(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until both runs have a checkpoint."""
    deadline = time.monotonic() + 300
    while len({path.parent for path in folder.glob("*/checkpoints/checkpoint-*")}) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
