"""Every tracker in one test: a run that is cut and goes on has its history once, a summary, samples and an end."""

from __future__ import annotations

import json
import logging
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import small_runs
from wandb_server import Server, own_session, serve

from harness import tracking
from harness.config import TrackerConfig
from harness.errors import ConfigError
from harness.tracking import TRACKERS, Tracker
from harness.tracking.tensorboard import markdown

ROOT = Path(__file__).resolve().parents[1]
ROWS: list[dict[str, Any]] = [
    {"input": "How far | is it?\nSay.", "base": "LOC", "tuned": "NUM", "reference": "NUM"},
    {"input": "Who?", "base": "", "tuned": "HUM", "reference": "HUM"},
]
RECORD = {"status": "done", "scores": {"test": {"accuracy": 0.75}}, "machine": "no result"}
PACKAGES = {"trackio": "trackio", "tensorboard": "tensorboardX", "wandb": "wandb"}


class Seen:
    """What a tracker holds of a run."""

    def __init__(self, history: dict[int, float], accuracy: float | None, samples: str, runs: int = 1) -> None:
        self.history, self.accuracy, self.samples, self.runs = history, accuracy, samples, runs


def from_wandb(server: Server, folder: Path) -> Seen:
    lines = [line for line in server.stream["wandb-history.jsonl"] if "loss" in line]
    assert len(lines) == len({line["_step"] for line in lines})
    summary = json.loads(server.files["wandb-summary.json"])
    tables = b"".join(data for name, data in server.files.items() if "samples" in name and name.endswith(".json"))
    runs = len({run["name"] for run in server.runs})
    return Seen({x["_step"]: x["loss"] for x in lines}, summary["scores/test/accuracy"], tables.decode(), runs)


def from_trackio(server: Server, folder: Path) -> Seen:
    from trackio.sqlite_storage import SQLiteStorage

    records = SQLiteStorage.get_run_records("peft-harness")
    logs = SQLiteStorage.get_logs("peft-harness", "lora-r8-abc")
    lines = [line for line in logs if "loss" in line]
    assert len(lines) == len({line["step"] for line in lines})
    accuracy = [line["summary/scores/test/accuracy"] for line in logs if "summary/scores/test/accuracy" in line]
    samples = json.dumps([line["samples"] for line in logs if "samples" in line])
    return Seen({line["step"]: line["loss"] for line in lines}, accuracy[-1], samples, len(records))


def events(folder: Path) -> Iterator[Any]:
    """Read event files in the order of their names, as TensorBoard does; an event stands between checksums."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((folder / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


def from_tensorboard(server: Server, folder: Path) -> Seen:
    """As TensorBoard reads them: where a file starts at a step, what was there from that step on is dropped."""
    history: dict[int, float] = {}
    accuracy, samples = None, ""
    for event in events(folder):
        if event.HasField("session_log"):
            history = {step: loss for step, loss in history.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == "loss":
                assert event.step not in history
                history[event.step] = value.simple_value
            elif value.tag == "summary/scores/test/accuracy":
                accuracy = value.simple_value
            elif value.tag.startswith("samples"):
                samples = value.tensor.string_val[0].decode()
    return Seen(history, accuracy, samples)


def from_none(server: Server, folder: Path) -> Seen:
    return Seen({}, None, "", 0)


READERS: dict[str, Callable[[Server, Path], Seen]] = {
    "wandb": from_wandb,
    "trackio": from_trackio,
    "tensorboard": from_tensorboard,
    "none": from_none,
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with own_session(tmp_path, monkeypatch), serve(monkeypatch, Server()) as serving:
        yield serving


@pytest.fixture
def trackio_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give Trackio a folder of the test's own; it reads the environment at its import."""
    folder = tmp_path / "trackio"
    if find_spec("trackio"):
        for name in ("utils", "sqlite_storage", "artifact", "cas"):
            module = __import__(f"trackio.{name}", fromlist=["x"])
            for where, value in (("TRACKIO_DIR", folder), ("MEDIA_DIR", folder / "media")):
                if hasattr(module, where):
                    monkeypatch.setattr(module, where, value)
    return folder


def begun(name: str, folder: Path) -> Tracker:
    config = small_runs.configure(folder, "method=lora", "rank=8", f"tracker={name}")
    tracking.check(config.tracker)
    return tracking.start(config, {"rank": 8, "method": {"name": "lora"}}, "lora-r8-abc", folder)


def missing(name: str) -> bool:
    return name in PACKAGES and find_spec(PACKAGES[name]) is None


@pytest.mark.parametrize("name", TRACKERS.names())
def test_a_run_that_is_cut_goes_on_in_each_tracker(
    name: str,
    server: Server,
    trackio_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    if missing(name):
        pytest.skip(f"{PACKAGES[name]} is not installed")
    folder = tmp_path / "run"
    first = begun(name, folder)
    for step in (1, 2, 3):
        first.log({"loss": 1 / step}, step)
    first.finish("interrupted")
    second = begun(name, folder)  # from a checkpoint at step 2
    for step in (3, 4, 5):
        second.log({"loss": 1 / step}, step)
    second.samples(ROWS)
    second.summarise(RECORD)
    second.adapter(folder)
    second.finish("done")
    seen = READERS[name](server, folder)
    whole = {} if name == "none" else {step: pytest.approx(1 / step, rel=1e-6) for step in range(1, 6)}
    assert seen.history == whole
    assert seen.accuracy == (None if name == "none" else 0.75)
    assert seen.runs == (0 if name == "none" else 1)
    if name != "none":
        assert all(str(row[column]) in seen.samples for row in ROWS for column in ("tuned", "reference"))
        assert first.url_or_folder == second.url_or_folder is not None
    assert capfd.readouterr() == ("", "")
    assert [one for one in caplog.records if one.name.startswith("harness") and one.levelno > logging.INFO] == []


@pytest.mark.parametrize("name", TRACKERS.names())
def test_a_tracker_that_breaks_warns_once_and_raises_nothing(
    name: str, server: Server, trackio_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if missing(name):
        pytest.skip(f"{PACKAGES[name]} is not installed")
    tracker = begun(name, tmp_path / "run")
    tracker.log({"loss": 1.0}, 1)
    whole = {held: getattr(tracker, held) for held in ("_run", "_writer") if hasattr(tracker, held)}
    for held in whole:
        setattr(tracker, held, object())
    for step in (2, 3):
        tracker.log({"loss": 1.0}, step)
    tracker.samples(ROWS)
    tracker.summarise(RECORD)
    tracker.finish("done")
    said = [one for one in caplog.records if one.name.startswith("harness")]
    assert len(said) == (0 if name == "none" else 1)
    for held, value in whole.items():
        getattr(value, {"_run": "finish", "_writer": "close"}[held])()


def test_every_tracker_is_a_preset_of_its_name() -> None:
    presets = {path.stem for path in (ROOT / "conf" / "tracker").glob("*.yaml")}
    assert presets == set(TRACKERS.names())
    for name in presets:
        assert small_runs.configure("runs", f"tracker={name}").tracker.name == name


def test_a_name_that_is_no_tracker_and_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^tracker=trackoi: no such tracker; did you mean trackio\?"):
        tracking.check(TrackerConfig(name="trackoi"))
    monkeypatch.setattr("harness.tracking.base.find_spec", lambda name: None)
    for name in ("trackio", "tensorboard"):
        with pytest.raises(ConfigError, match=rf"^tracker={name}: needs the package .*peft-harness\[{name}\]'$"):
            tracking.check(TrackerConfig(name=name))


def test_tensorboard_refuses_to_keep_an_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.tracking.base.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"^tracker\.log_adapter=True: tensorboard keeps no files"):
        tracking.check(TrackerConfig(name="tensorboard", log_adapter=True))


def test_samples_are_a_markdown_table_whatever_they_hold() -> None:
    head, rule, *lines = markdown(ROWS).splitlines()
    assert head == "| input | base | tuned | reference |" and rule.count("---") == 4
    assert lines[0] == r"| How far \| is it?<br>Say. | LOC | NUM | NUM |" and len(lines) == 2


@pytest.mark.slow
def test_trackio_shows_what_a_run_tracked(tmp_path: Path, llama_folder: Path, data_folder: Path) -> None:
    """A run in a process of its own, and Trackio's command line on what it left; no account, no network."""
    if missing("trackio"):
        pytest.skip("trackio is not installed")
    import os

    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "OMP_NUM_THREADS": "1"}
    chosen = ["model=custom", f"model.path={llama_folder}", *small_runs.task("classification", data_folder)]
    words = [word for word in (*small_runs.QUICK, *chosen) if not word.startswith("tracker=")]
    command = [sys.executable, "-m", "harness.run", *words, "tracker=trackio", f"output_dir={tmp_path / 'runs'}"]
    subprocess.run(command, check=True, env=environment, cwd=ROOT, capture_output=True)
    shown = [sys.executable, "-m", "trackio.cli", "list", "runs", "--project", "peft-harness", "--json"]
    found = subprocess.run(shown, check=True, env=environment, capture_output=True, text=True)
    (folder,) = (path.parent.name for path in (tmp_path / "runs").glob("*/record.json"))
    assert folder in found.stdout
