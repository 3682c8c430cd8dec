"""Whatever happens while a file or folder is written, a reader sees the old one or the new one."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import platform
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.errors import AssetError
from harness.storage import files
from harness.storage.files import disk_full, new_folder, remove_partial, require_writable, write_bytes, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_crash_while_writing_leaves_the_old_file(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "record.json", b"old")

    def dies(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), dies)
    with pytest.raises(OSError, match="the disk is gone"):
        write_bytes(tmp_path / "record.json", b"new")
    assert (tmp_path / "record.json").read_bytes() == b"old"
    assert names(tmp_path) == ["record.json"]


def write_for_ever(path: Path) -> None:
    number = 0
    while True:
        write_json(path, {"number": number, "filler": ["x" * 1000] * 200, "again": number})
        number += 1


def test_killed_writer_never_leaves_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    for _ in range(3):
        writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(path,))
        writer.start()
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        for _ in range(20):
            found = json.loads(path.read_text(encoding="utf-8"))
            assert found["number"] == found["again"]
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["number"] == found["again"]
    remove_partial(tmp_path)
    assert names(tmp_path) == ["record.json"]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [float("inf"), 1.5], 3: (-float("inf"),), "c": "NaN"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, 1.5], "3": [None], "c": "NaN"}


def test_folder_takes_its_place_once_complete(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with new_folder(tmp_path / "trained") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "weights").write_text(content, encoding="utf-8")
            before = (tmp_path / "trained" / "sub" / "weights").exists()
            assert before == (content == "new")
    assert names(tmp_path) == ["trained"]
    assert (tmp_path / "trained" / "sub" / "weights").read_text(encoding="utf-8") == "new"


class Killed(BaseException):
    """Ends a process at once: nothing after it runs, not even what tidies up."""


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the `number`-th rename or removal of a folder, and all after it, raise as if the process were gone."""
    calls = iter(range(10**6))

    def dying(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) >= number:
                raise Killed
            return real(*arguments, **options)

        return call

    for owner, name in ((Path, "rename"), (shutil, "rmtree"), (files, "_flush_names")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))


def write_trained(folder: Path, content: str) -> None:
    with new_folder(folder / "trained") as target:
        (target / "weights").write_text(content, encoding="utf-8")


@pytest.mark.parametrize("number", range(5))
def test_killed_between_two_renames_one_copy_is_always_left(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trained(tmp_path, "old")
    with monkeypatch.context() as patch:
        die_at(patch, number)
        if number < 4:  # rename away, rename into place, flush, remove
            with pytest.raises(Killed):
                write_trained(tmp_path, "new")
        else:
            write_trained(tmp_path, "new")
    remove_partial(tmp_path)
    assert names(tmp_path) == ["trained"]
    expected = "old" if number < 2 else "new"
    assert (tmp_path / "trained" / "weights").read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("number", range(4))
def test_killed_while_recovering_loses_nothing_either(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trained(tmp_path, "old")
    (tmp_path / "trained").rename(tmp_path / ".trained.old")
    (tmp_path / ".trained.node1.12.part").mkdir()
    with monkeypatch.context() as patch, suppress(Killed):
        die_at(patch, number)
        remove_partial(tmp_path)
    remove_partial(tmp_path)
    assert names(tmp_path) == ["trained"]
    assert (tmp_path / "trained" / "weights").read_text(encoding="utf-8") == "old"


def test_the_only_copy_survives_the_next_writing_too(tmp_path: Path) -> None:
    write_trained(tmp_path, "old")
    (tmp_path / "trained").rename(tmp_path / ".trained.old")
    with pytest.raises(ValueError, match="no"), new_folder(tmp_path / "trained"):
        raise ValueError("no")
    assert names(tmp_path) == ["trained"]
    write_trained(tmp_path, "new")
    assert names(tmp_path) == ["trained"]


def test_failed_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_trained(tmp_path, "old")
    real = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.name.endswith(".part"):
            raise OSError(errno.EIO, "the disk is gone")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        write_trained(tmp_path, "new")
    assert (tmp_path / "trained" / "weights").read_text(encoding="utf-8") == "old"


def test_processes_and_hosts_write_under_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for host, pid in (("node1.cluster", 7), ("node2.cluster", 7), ("node2.cluster", 8)):
        monkeypatch.setattr(platform, "node", lambda host=host: host)
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        with suppress(Killed), new_folder(tmp_path / str(pid) / "trained") as folder:
            found.add(folder.name)
    assert found == {".trained.node1-cluster.7.part", ".trained.node2-cluster.7.part", ".trained.node2-cluster.8.part"}


def test_only_what_dead_processes_began_is_removed_without_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "node1")
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    kept = [f".trained.node1.{os.getppid()}.part", f".trained.node2.{dead.pid}.part"]
    for name in (*kept, f".trained.node1.{dead.pid}.part"):
        (tmp_path / name).mkdir()
    write_trained(tmp_path, "new")
    assert names(tmp_path) == sorted([*kept, "trained"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_failure_leaves_the_old_folder_and_nothing_else(error: type[BaseException], tmp_path: Path) -> None:
    with new_folder(tmp_path / "trained") as folder:
        (folder / "weights").write_text("old", encoding="utf-8")
    with pytest.raises(error), new_folder(tmp_path / "trained") as folder:
        (folder / "weights").write_text("half", encoding="utf-8")
        raise error
    assert names(tmp_path) == ["trained"]
    assert (tmp_path / "trained" / "weights").read_text(encoding="utf-8") == "old"


def test_crash_before_the_rename_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_move", dies)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "checkpoint-2") as folder:
        (folder / "weights").write_text("whole", encoding="utf-8")
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in (".checkpoint-4.node1.12.part", ".trained.old", "trained"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").touch()
    for name in (".record.json.12.part", "record.json", ".lock"):
        (tmp_path / name).touch()
    remove_partial(tmp_path)
    assert names(tmp_path) == [".lock", "record.json", "trained"]


def test_full_disk_is_known_by_number_and_by_words(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    assert disk_full(OSError(errno.ENOSPC, "x"))
    assert disk_full(OSError(errno.EDQUOT, "x"))
    assert disk_full(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not disk_full(OSError(errno.EACCES, "x"))
    assert not disk_full(ValueError("no"))


def test_folder_is_checked_before_anything_expensive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_writable(tmp_path / "new" / "runs", 1)
    assert names(tmp_path / "new" / "runs") == []
    (tmp_path / "file").touch()
    with pytest.raises(AssetError, match=r"output_dir=.*file"):
        require_writable(tmp_path / "file", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 2**20))
    with pytest.raises(AssetError, match="1 MiB free on the disk, at least 64 MiB needed"):
        require_writable(tmp_path, 64 * 2**20)
