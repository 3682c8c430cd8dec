"""Runs tracked in Weights & Biases: what is written, what is not, and what happens when W&B is away."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wandb_server import KEY, SECRET, Server, own_session, read, serve

from harness import tracking
from harness.config import ModelConfig, RunConfig, SweepConfig, TrackerConfig, TrackerMode, TrainConfig
from harness.errors import ConfigError
from harness.methods.lora import LoRA
from harness.tasks.base import Task
from harness.tasks.classification import Classification
from harness.tasks.source import Source, Sources
from harness.tracking import base
from harness.tracking import wandb as wandb_tracking

ROWS: list[dict[str, Any]] = [
    {"input": "How far is it?", "tuned": "NUM"},
    {"input": "Who?", "scores": [0.5, 1]},
]
RECORD = {
    "status": "done",
    "scores": {"test": {"accuracy": 0.75, "interval": [0.5, 0.875]}},
    "parameters": {"trainable": 7},
    "machine": "not a result",
}


@pytest.fixture(autouse=True)
def _own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with own_session(tmp_path, monkeypatch):
        yield


def questions(dataset: str) -> Classification:
    """Return a task over a file of this data set."""
    return Classification(
        dataset=dataset,
        data=Sources(all=Source(path="a.jsonl")),
        columns={"text": "t", "label": "l"},
        labels={"pos": " good", "neg": " bad"},
    )


def configured(mode: str = "offline", **tracker: Any) -> RunConfig:
    """Return a run's configuration that tracks in `mode`."""
    return RunConfig(
        model=ModelConfig(path="models/tiny"),
        task=questions("trec"),
        method=LoRA(rank=8),
        train=TrainConfig(),
        tracker=TrackerConfig(mode=TrackerMode(mode), **tracker),
        sweep=SweepConfig(name="sweep-1"),
        seed=3,
    )


def trained(config: RunConfig, folder: Path, run_id: str = "abc123", status: str = "done") -> tracking.Tracker:
    """Track a run of three steps from start to end."""
    (folder / "trained").mkdir(parents=True)
    (folder / "trained" / "adapter.safetensors").write_bytes(b"weights" * 100)
    tracker = tracking.start(config, {"rank": 8, "method": {"name": "lora"}}, run_id, folder)
    for step in (1, 2, 3):
        tracker.log({"train/loss": 1 / step}, step)
    tracker.samples(ROWS)
    tracker.summarise({**RECORD, "status": status})
    tracker.adapter(folder / "trained")
    tracker.finish(status)
    return tracker


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve W&B on this machine, and be logged in to it."""
    with serve(monkeypatch, Server()) as serving:
        yield serving


def ours(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return what the harness itself logged; W&B's own log goes to its files, wherever pytest listens."""
    records = [record for record in caplog.records if record.name.startswith("harness")]
    return [(record.levelname, record.getMessage()) for record in records if record.levelno > 10]


def test_an_offline_run_reads_back_whole(tmp_path: Path) -> None:
    config = configured(tags=["pilot"], log_adapter=True)
    tracker = trained(config, tmp_path / "run")
    found = read(tmp_path / "run")
    assert (found.run.run_id, found.run.display_name) == ("abc123", "lora-r8-trec-tiny-s3")
    assert (found.run.run_group, list(found.run.tags)) == ("sweep-1", ["pilot", "lora"])
    assert found.run.project == "peft-harness"
    sent = {item.key: json.loads(item.value_json) for item in found.run.config.update}
    assert sent["rank"] == 8 and sent["method"] == {"name": "lora"}
    losses = [(line["_step"], line["train/loss"]) for line in found.history if "train/loss" in line]
    assert losses == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert found.exit_code == 0
    assert tracker.url_or_folder is not None and Path(tracker.url_or_folder).parent == tmp_path / "run/wandb"


def test_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    trained(configured(log_adapter=True), tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    assert ours(caplog) == []


def test_summary_table_and_adapter_are_there(tmp_path: Path) -> None:
    trained(configured(log_adapter=True), tmp_path / "run")
    found = read(tmp_path / "run")
    assert found.summary["scores/test/accuracy"] == 0.75
    assert found.summary["scores/test/interval/1"] == 0.875
    assert found.summary["parameters/trainable"] == 7
    assert "machine" not in found.summary
    (table,) = (tmp_path / "run").glob("wandb/*/files/media/table/samples*.json")
    expected = [["How far is it?", "NUM", None], ["Who?", None, "[0.5, 1]"]]
    assert json.loads(table.read_text()) == {"columns": ["input", "tuned", "scores"], "data": expected}
    adapter = next(artifact for artifact in found.artifacts if artifact.type == "adapter")
    assert [Path(entry.local_path) for entry in adapter.manifest.contents] == [
        tmp_path / "run/trained/adapter.safetensors"
    ]


def test_nothing_is_left_outside_the_run_folder(tmp_path: Path) -> None:
    trained(configured(log_adapter=True), tmp_path / "run")
    written = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.suffix != ".log"]
    assert written == []


def test_the_adapter_is_kept_only_if_asked(tmp_path: Path) -> None:
    trained(configured(), tmp_path / "run")
    assert all(artifact.type != "adapter" for artifact in read(tmp_path / "run").artifacts)


def test_a_failed_run_ends_with_exit_code_1(tmp_path: Path) -> None:
    trained(configured(), tmp_path / "run", status="failed")
    assert read(tmp_path / "run").exit_code == 1


def test_runs_in_one_process_are_runs_of_their_own(tmp_path: Path) -> None:
    for number in (1, 2):
        trained(configured(), tmp_path / str(number), run_id=f"run/{number}")
    first, second = read(tmp_path / "1"), read(tmp_path / "2")
    assert (first.run.run_id, second.run.run_id) == ("run-1", "run-2")
    assert [len([line for line in run.history if "train/loss" in line]) for run in (first, second)] == [3, 3]


def test_a_run_started_again_keeps_its_id(tmp_path: Path) -> None:
    for part in ("a", "b"):
        trained(configured(), tmp_path / part)
    assert read(tmp_path / "a").run.run_id == read(tmp_path / "b").run.run_id


def test_a_run_that_starts_over_has_a_run_of_its_own(tmp_path: Path) -> None:
    for restarts in (0, 1, 2):
        tracking.start(configured(), {}, "a.b", tmp_path / str(restarts), restarts).finish("failed")
    assert [read(tmp_path / str(part)).run.run_id for part in (0, 1, 2)] == ["a-b", "a-b-retry1", "a-b-retry2"]


def test_a_retry_that_was_cut_goes_on_in_its_own_run(server: Server, tmp_path: Path) -> None:
    for steps in ((1,), (2, 3)):
        tracker = tracking.start(configured("online"), {}, "abc", tmp_path / "run", 1)
        for step in steps:
            tracker.log({"train/loss": float(step)}, step)
        tracker.finish("done")
    assert {run["name"] for run in server.runs} == {"abc-retry1"}
    assert [line["_step"] for line in server.stream["wandb-history.jsonl"]] == [1, 2, 3]


def test_runs_are_named_by_their_data() -> None:
    config = configured()
    assert base.label(config) == "lora-r8-trec-tiny-s3"
    tasks: dict[str, Task] = {"one": questions("boolq"), "two": questions("trec")}
    config = replace(config, sequence=["two", "one"], sequence_tasks=tasks)
    assert base.label(config) == "lora-r8-trec+boolq-tiny-s3"


def test_no_secret_command_or_host_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(sys, "argv", ["harness", "--token=argument-of-the-command"])
    trained(configured(log_adapter=True), tmp_path / "run")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    for word in (SECRET, KEY, "argument-of-the-command"):
        assert [path for path in written if word.encode() in path.read_bytes()] == []
    assert read(tmp_path / "run").run.host == ""
    assert read(tmp_path / "run").kinds.isdisjoint({"environment", "output", "output_raw"})


@pytest.mark.slow
def test_unreachable_wandb_goes_offline_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = configured("auto", init_timeout=1.0)
    assert wandb_tracking.tracking_mode(config.tracker) is TrackerMode.online
    for part in ("a", "b"):
        trained(config, tmp_path / part)
        assert read(tmp_path / part).exit_code == 0
        assert [path.name[:11] for path in tmp_path.glob(f"{part}/wandb/*run-*")] == ["offline-run"]
    assert [name for name, _ in ours(caplog)] == ["WARNING"]
    assert "cannot be reached" in ours(caplog)[0][1] and KEY not in caplog.text


def check_received(server: Server) -> None:
    """Assert that history, summary, table and adapter of :func:`trained` came to the server."""
    lines = [line for line in server.stream["wandb-history.jsonl"] if "train/loss" in line]
    assert [line["train/loss"] for line in lines] == [1.0, 0.5, 1 / 3]
    summary = json.loads(server.files["wandb-summary.json"])
    assert summary["scores/test/accuracy"] == 0.75 and summary["samples"]["nrows"] == 2
    assert server.files["adapter.safetensors"] == b"weights" * 100
    assert (server.runs[0]["name"], server.runs[0]["groupName"]) == ("abc123", "sweep-1")
    assert json.loads(server.runs[0]["config"])["rank"] == {"value": 8}
    for sent in (*server.files.values(), json.dumps([server.runs, server.stream]).encode()):
        assert SECRET.encode() not in sent and KEY.encode() not in sent


def test_an_online_run_arrives_whole(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = trained(configured("auto", log_adapter=True), tmp_path / "run")
    assert tracker.url_or_folder == f"{server.url}/me/p/runs/abc123"
    check_received(server)
    assert server.exit_codes == [0]
    assert (tmp_path / "run/trained/adapter.safetensors").exists()
    assert capfd.readouterr() == ("", "")


def test_an_online_run_that_failed_says_so(server: Server, tmp_path: Path) -> None:
    trained(configured("online"), tmp_path / "run", status="failed")
    assert server.exit_codes == [1]


@pytest.mark.slow
def test_an_offline_run_is_ready_for_sync(server: Server, tmp_path: Path) -> None:
    tracker = trained(configured("offline", log_adapter=True), tmp_path / "run")
    assert server.runs == []
    command = [sys.executable, "-m", "wandb", "sync", str(tracker.url_or_folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, timeout=30)
    check_received(server)


@pytest.mark.slow
def test_a_connection_lost_on_the_way_holds_nothing_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wandb_tracking, "FINISH_FACTOR", 1)
    tracker = tracking.start(configured("auto", init_timeout=1.5), {}, "abc", tmp_path / "run")
    server.shutdown()
    server.server_close()
    tracker.log({"loss": 1.0}, 1)
    tracker.finish("done")
    assert len(ours(caplog)) == 1 and "TimeoutError" in ours(caplog)[0][1]
    assert tracking.start(configured("auto"), {}, "next", tmp_path / "next").url_or_folder == str(
        next(tmp_path.glob("next/wandb/offline-run-*"))
    )


def test_a_service_that_died_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from wandb.sdk import wandb_setup

    tracker = tracking.start(configured(), {}, "first", tmp_path / "first")
    connection: Any = wandb_setup.singleton().ensure_service()
    connection._proc._process.kill()
    connection._proc.join()
    tracker.log({"loss": 1.0}, 1)
    tracker.finish("done")
    trained(configured(), tmp_path / "second")
    assert read(tmp_path / "second").exit_code == 0
    assert len(ours(caplog)) == 1


def test_settings_wandb_cannot_read_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offlien")
    trained(configured("auto"), tmp_path / "run")
    assert [name for name, _ in ours(caplog)] == ["WARNING"]


def test_a_tracker_that_breaks_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = tracking.start(configured(log_adapter=True), {}, "abc", tmp_path / "run")
    tracker.finish("done")
    for step in (1, 2):
        tracker.log({"loss": 1.0}, step)
    tracker.samples(ROWS)
    tracker.adapter(tmp_path / "nowhere")
    tracker.summarise(RECORD)
    tracker.finish("done")
    assert len(ours(caplog)) == 1


def test_tracking_nothing_imports_nothing(tmp_path: Path) -> None:
    lines = (
        "import sys, pathlib; from harness import tracking, config; import types",
        "t = config.TrackerConfig(mode=config.TrackerMode(sys.argv[1])); tracking.check(t)",
        "run = tracking.start(types.SimpleNamespace(tracker=t), {}, 'x', pathlib.Path('.'))",
        "run.log({'loss': 1.0}, 1); run.samples([]); run.summarise({}); run.finish('done')",
        "assert run.url_or_folder is None and 'wandb' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines), "none"], check=True)


def test_auto_follows_login_and_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tracker = TrackerConfig()
    assert wandb_tracking.tracking_mode(tracker) is TrackerMode.offline
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert wandb_tracking.tracking_mode(tracker) is TrackerMode.online
    for asked, mode in (
        ("offline", "offline"),
        ("dryrun", "offline"),
        ("disabled", "none"),
        ("online", "online"),
    ):
        monkeypatch.setenv("WANDB_MODE", asked)
        assert wandb_tracking.tracking_mode(tracker) is TrackerMode(mode)


@pytest.mark.parametrize("key", [None, "too-short"])
def test_online_without_a_login_is_refused(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.raises(ConfigError, match=r"^tracker\.mode=online: needs a W&B login") as caught:
        tracking.check(TrackerConfig(mode=TrackerMode.online))
    assert "too-short" not in str(caught.value)


def test_online_with_a_login_passes_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracking.check(TrackerConfig(mode=TrackerMode.online))


@pytest.mark.parametrize(("key", "value"), [("project", "a/b"), ("project", ""), ("tags", ["x" * 65])])
def test_what_wandb_would_refuse_is_refused_before_training(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^tracker\.{key}="):
        tracking.check(TrackerConfig(**{key: value}))
