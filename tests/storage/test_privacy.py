"""Who the user is stays out of what a run writes, and what it writes instead is found again."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_runs
from wandb_server import Server, own_session, serve

from harness import identity
from harness.errors import ConfigError
from harness.execution.reload import load_run
from harness.storage.assets import cache_root
from harness.storage.privacy import expanded, masked
from harness.storage.record import read_record

USER = "alice-of-the-tests"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home folder of a user of this name."""
    folder = tmp_path / "home" / USER
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    return folder


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{home}/models/m", "~/models/m"),
        ("{home}", "~"),
        ("/scratch/{user}/m", "/scratch/$USER/m"),
        ("/scratch/{user}", "/scratch/$USER"),
        ("/scratch/my models/{user}/m", "/scratch/my models/$USER/m"),
        ("../{user}/m", "../$USER/m"),
        ("C:\\Users\\{user}\\m", "C:\\Users\\$USER\\m"),
        ("file:///scratch/{user}/m", "file:///scratch/$USER/m"),
        ("no such file: '/scratch/{user}/m'; see {home}/log", "no such file: '/scratch/$USER/m'; see ~/log"),
        ('  File "{home}/x.py", line 3\n    {user} = 1', '  File "~/x.py", line 3\n    {user} = 1'),
        ("/scratch/{user}.old/{user}s/m", "/scratch/{user}.old/{user}s/m"),
        ("{user}/bert-base", "{user}/bert-base"),
        ("hub-name/{user}", "hub-name/{user}"),
        ("https://wandb.ai/{user}/p/runs/x", "https://wandb.ai/{user}/p/runs/x"),
        ("plain words", "plain words"),
    ],
)
def test_home_and_name_are_replaced_in_paths_only(given: str, expected: str, home: Path) -> None:
    names = {"home": str(home), "user": USER}
    assert masked(given.format(**names)) == expected.format(**names)
    assert masked(masked(given.format(**names))) == masked(given.format(**names))


def test_nested_values_are_masked_and_others_left(home: Path) -> None:
    value = {"a": [f"{home}/m", 1, None], f"{home}/k": {"b": (True, 0.5)}}
    assert masked(value) == {"a": ["~/m", 1, None], "~/k": {"b": [True, 0.5]}}


def test_home_that_is_the_root_is_no_beginning_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setenv("LOGNAME", USER)
    assert masked("/data/m") == "/data/m"


def test_user_without_a_name_masks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> str:
        raise KeyError("no such user id")

    monkeypatch.setattr(getpass, "getuser", fails)
    assert masked("/scratch/alice/m") == "/scratch/alice/m"
    assert expanded("/scratch/$USER/m") == Path("/scratch/$USER/m")


@pytest.mark.parametrize("path", ["{home}/m/x", "/scratch/{user}/m", "/scratch/{user}", "{home}"])
def test_what_was_masked_is_found_again(path: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER")
    whole = path.format(home=home, user=USER)
    assert masked(whole) != whole
    assert expanded(masked(whole)) == Path(whole)


def test_variables_are_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/a")
    assert expanded("$SCRATCH/${USER}/m") == Path(f"/scratch/a/{USER}/m")
    assert expanded("runs") == Path("runs")
    assert cache_root("~/c") == home / "c"


@pytest.fixture
def at_home(home: Path, llama_folder: Path, data_folder: Path) -> list[str]:
    """Return overrides that name a model and data below the home folder by ``~``."""
    small_runs.forget_prepared()  # what an equal model elsewhere left
    shutil.copytree(llama_folder, home / "model")
    shutil.copytree(data_folder, home / "data")
    return ["model.path=~/model", "model.kind=decoder", *small_runs.task("classification", Path("~/data"))]


@pytest.mark.slow
def test_paths_from_home_have_the_identity_of_whole_ones(at_home: list[str], home: Path) -> None:
    short = small_runs.configure("runs", *at_home)
    whole = small_runs.configure("runs", *(override.replace("=~", f"={home}") for override in at_home))
    assert short.model.path == "~/model"
    assert identity.run_id(short) == identity.run_id(whole)
    (home / "data" / "classification.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"^task\.data\.all\.path=~/data/classification.jsonl: there is no such file"):
        identity.run_id(short)


def files_with(word: str, folder: Path) -> list[str]:
    """Return the files below `folder` in which a word stands, as bytes."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and word.encode() in path.read_bytes()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_no_file_of_a_run_says_who_the_user_is(
    whole: bool, at_home: list[str], home: Path, quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(home) if whole else "~"
    overrides = [override.replace("=~", f"={place}") for override in at_home]
    with own_session(tmp_path / "wandb", monkeypatch):
        folder, record = small_runs.run(
            f"{place}/runs", *overrides, "tracker=wandb", "tracker.mode=offline", "train.keep_checkpoints=true"
        )
    assert record["status"] == "done"
    assert record["config"]["model"]["path"] == "~/model" and record["config"]["output_dir"] == "~/runs"
    assert record["tracker"].startswith("~/runs/")
    (offline,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert files_with(USER, home / "runs") == [str(offline.relative_to(home / "runs"))]
    # `wandb sync` must know where the table of samples waits for upload: that stays.
    staged = f"{folder}/wandb/artifacts/staging/".encode()
    assert USER.encode() not in offline.read_bytes().replace(staged, b"")
    load_run(folder)


@pytest.mark.slow
def test_nothing_that_is_uploaded_says_it_but_where_a_table_was_staged(
    at_home: list[str], home: Path, quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_session(tmp_path / "wandb", monkeypatch), serve(monkeypatch, Server()) as server:
        folder, _ = small_runs.run("~/runs", *at_home, "tracker=wandb", "tracker.mode=offline")
        (part,) = folder.glob("wandb/offline-run-*")
        command = [sys.executable, "-m", "wandb", "sync", str(part)]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, timeout=60)
        assert server.runs and server.files
        sent = [*server.files.values(), json.dumps([server.runs, server.stream]).encode()]
    # wandb puts the place of a table's file, which `sync` reads it from, into the artifact's manifest, and uploads it.
    staged = re.compile(re.escape(str(folder).encode()) + rb"/wandb/artifacts/staging/\w+")
    assert [content for content in sent if USER.encode() in staged.sub(b"", content)] == []


def test_failed_run_does_not_either(
    at_home: list[str], home: Path, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.execution import loading

    def fails(*_: Any) -> None:
        raise ValueError(f"cannot read {home}/model nor /scratch/{USER}/x")

    monkeypatch.setattr(loading, "load_backbone", fails)
    folder, record = small_runs.run("~/runs", *at_home)
    assert record["reason"] == "ValueError: cannot read ~/model nor /scratch/$USER/x"
    assert "Traceback" in record["traceback"]
    assert files_with(USER, folder) == [] and read_record(folder) == record
