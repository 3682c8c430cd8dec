"""One holder at a time: processes of a host, hosts whose locks do not see each other, holders that were killed."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from harness.storage import locks
from harness.storage.locks import exclusive
from harness.storage.record import RunFolder

FORK = multiprocessing.get_context("fork")
_host = threading.local()


class NodeLocal:
    """A lock that hosts do not share, as ``flock`` on NFS with ``local_lock``: each always gets its own."""

    def __init__(self, *_: object, **__: object) -> None:
        self.is_locked = False

    def acquire(self, **_: object) -> None:
        self.is_locked = True

    def release(self) -> None:
        self.is_locked = False


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each thread be a host of its own, named by :func:`on`, whose native lock excludes no other."""
    monkeypatch.setattr(locks, "FileLock", NodeLocal)
    monkeypatch.setattr(locks, "machine", lambda: getattr(_host, "name", "node1"))
    monkeypatch.setattr(platform, "node", lambda: getattr(_host, "name", "node1"))
    monkeypatch.setattr(locks, "POLL_SECONDS", (0.001, 0.01))
    monkeypatch.setattr(locks, "CONFIRM_SECONDS", 0.1)


@contextmanager
def on(name: str) -> Iterator[None]:
    before = getattr(_host, "name", "node1")
    _host.name = name
    try:
        yield
    finally:
        _host.name = before


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system implement no locks."""

    def refuses(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuses)


def hold(path: Path, held: Event, end: Event) -> None:
    with exclusive(path, "it"):
        held.set()
        end.wait(30)


@contextmanager
def holder(path: Path) -> Iterator[tuple[Any, Event]]:
    """Hold `path` in another process."""
    held, end = FORK.Event(), FORK.Event()
    process = FORK.Process(target=hold, args=(path, held, end))
    process.start()
    assert held.wait(20)
    try:
        yield process, end
    finally:
        if process.is_alive():  # an event waits for ever for one that was killed while it slept
            end.set()
        process.join()


def free(path: Path) -> bool:
    with exclusive(path, "it", wait=False) as mine:
        return mine


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("native", [True, False])
def test_another_process_is_kept_out_and_then_let_in(
    native: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not native:
        request.getfixturevalue("no_flock")
    path = tmp_path / "new" / ".lock"
    with holder(path) as (_, end):
        assert not free(path)
        threading.Timer(0.3, end.set).start()
        began = time.monotonic()
        with exclusive(path, "it") as mine:
            assert mine and time.monotonic() - began > 0.2
    assert free(path)
    assert left(path.parent) == [".lock"]


@pytest.mark.parametrize("native", [True, False])
def test_killed_holder_blocks_nothing(native: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not native:
        request.getfixturevalue("no_flock")
    path = tmp_path / ".lock"
    with holder(path) as (process, _):
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert left(tmp_path) == [".lock", ".lock.holder"]
        began = time.monotonic()
        assert free(path)
        assert time.monotonic() - began < 0.5
    assert left(tmp_path) == [".lock"]


def test_holder_that_takes_no_signal_keeps_the_lock(tmp_path: Path, no_flock: None) -> None:
    path = tmp_path / ".lock"
    with holder(path) as (process, _):
        os.kill(process.pid, signal.SIGSTOP)
        assert not free(path)
        os.kill(process.pid, signal.SIGCONT)


def test_error_in_the_block_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), exclusive(tmp_path / ".lock", "it"):
        raise KeyboardInterrupt
    assert free(tmp_path / ".lock")


def test_other_errors_of_the_lock_are_not_taken_for_missing_support(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(OSError, match="the disk is gone"), exclusive(tmp_path / ".lock", "it"):
        pass


def test_second_host_sees_the_lock_held(tmp_path: Path, hosts: None) -> None:
    with on("node1"), exclusive(tmp_path / ".lock", "it") as mine:
        assert mine
        with on("node2"):
            assert not free(tmp_path / ".lock")
    with on("node2"):
        assert free(tmp_path / ".lock")


def race(path: Path, names: list[str], work: Callable[[], None], wait: bool = True) -> int:
    """Let hosts take the lock at the same time; return how many got it, after checking that none was in together."""
    inside, count = threading.Lock(), []

    def takes(name: str) -> None:
        with on(name), exclusive(path, "it", wait) as mine:
            if mine:
                assert inside.acquire(blocking=False), "two holders"
                count.append(name)
                work()
                inside.release()

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(takes, names))
    return len(count)


NODES = [f"node{number}" for number in range(20)]


def test_twenty_hosts_hold_it_one_after_another(tmp_path: Path, hosts: None) -> None:
    assert race(tmp_path / ".lock", NODES, lambda: time.sleep(0.005)) == 20
    assert left(tmp_path) == []


def write_holder(path: Path, machine: str, age: float, pid: int = 4242) -> None:
    """Write the holder file of another process, last touched `age` seconds ago."""
    since = time.mktime((2026, 1, 2, 14, 3, 0, 0, 0, -1))
    content = {"machine": machine, "host": machine, "pid": pid, "since": since, "token": "old"}
    path.write_text(json.dumps(content), encoding="utf-8")
    os.utime(path, (time.time() - age,) * 2)


@pytest.mark.slow
def test_stale_holder_is_taken_over_by_one_of_several(tmp_path: Path, hosts: None) -> None:
    for attempt in range(5):
        path = tmp_path / str(attempt) / ".lock"
        path.parent.mkdir()
        write_holder(path.with_name(".lock.holder"), "gone", 1000)
        assert race(path, NODES, lambda: time.sleep(0.3), wait=False) == 1
        write_holder(path.with_name(".lock.holder"), "gone", 1000)
        assert race(path, NODES, lambda: time.sleep(0.005)) == 20
        assert left(path.parent) == []


def race_of_processes(path: Path, log: Path, machine: str) -> None:
    vars(locks).update(machine=lambda: machine, FileLock=NodeLocal)
    with exclusive(path, "it"), log.open("a", encoding="utf-8") as file:
        for word in ("in", "out"):
            file.write(f"{machine} {word}\n")
            file.flush()
            time.sleep(0.02)


@pytest.mark.slow
def test_processes_of_other_hosts_never_overlap(tmp_path: Path) -> None:
    write_holder(tmp_path / ".lock.holder", "gone", 1000)
    log = tmp_path / "log"
    made = [FORK.Process(target=race_of_processes, args=(tmp_path / ".lock", log, name)) for name in NODES[:8]]
    for process in made:
        process.start()
    for process in made:
        process.join()
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 16
    for (first, went_in), (second, went_out) in zip(lines[::2], lines[1::2], strict=True):
        assert (first, went_in, went_out) == (second, "in", "out")


@pytest.mark.slow
def test_heartbeat_keeps_a_lock_from_being_taken(tmp_path: Path, hosts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.5)
    with on("node1"), exclusive(tmp_path / ".lock", "it"):
        for _ in range(10):
            time.sleep(0.1)
            with on("node2"):
                assert not free(tmp_path / ".lock")


def test_holder_that_stood_still_learns_of_it_and_leaves_its_successor(
    tmp_path: Path, hosts: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, stopped = tmp_path / ".lock", []
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.3)
    monkeypatch.setattr(locks, "interrupt", lambda: stopped.append(1))
    with on("node1"), exclusive(path, "runs/a"):
        os.utime(tmp_path / ".lock.holder", (time.time() - 1000,) * 2)
        with on("node2"), exclusive(path, "runs/a", wait=False) as taken:
            assert taken
            time.sleep(0.5)
            assert "runs/a: another host took over the lock" in caplog.text
            assert stopped == [1]  # it stops: two processes must not write one run
    assert left(tmp_path) == []


def test_times_are_those_of_the_file_system(tmp_path: Path, hosts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    write_holder(tmp_path / ".lock.holder", "gone", 0)
    monkeypatch.setattr(time, "time", lambda: 10.0**10)  # this host's clock is centuries ahead
    assert not free(tmp_path / ".lock")


def test_holder_of_this_host_that_died_is_taken_over_at_once(tmp_path: Path, hosts: None) -> None:
    write_holder(tmp_path / ".lock.holder", "node1", 0, os.getpid())
    assert free(tmp_path / ".lock")


@pytest.mark.parametrize("content", ["", '{"machine": ', "[]", '{"other": 1}'])
def test_damaged_holder_file_counts_for_seconds_only(content: str, tmp_path: Path, hosts: None) -> None:
    file = tmp_path / ".lock.holder"
    file.write_text(content, encoding="utf-8")
    assert not free(tmp_path / ".lock")
    os.utime(file, (time.time() - 6,) * 2)
    assert free(tmp_path / ".lock")


def test_killed_in_a_take_over_blocks_nothing(tmp_path: Path, hosts: None) -> None:
    write_holder(tmp_path / ".lock.holder", "gone", 1000)
    write_holder(tmp_path / ".lock.holder.old.next", "node1", 0)
    with exclusive(tmp_path / ".lock", "it") as mine:
        assert mine
    assert left(tmp_path) == []


def test_long_wait_is_said_once(
    tmp_path: Path, hosts: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "SAY_AFTER_SECONDS", 0.1)
    file = tmp_path / "runs" / "lora-1" / ".lock.holder"
    file.parent.mkdir(parents=True)
    write_holder(file, "node7", 0)
    threading.Timer(0.5, file.unlink).start()
    monkeypatch.chdir(tmp_path)
    with RunFolder("runs", "lora-1").lock(wait=True) as mine:
        assert mine
    said = capfd.readouterr().err.splitlines()
    assert said == ["waiting for runs/lora-1: held by host node7, process 4242, since 2026-01-02 14:03"]


def test_short_wait_is_not_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with holder(tmp_path / ".lock") as (_, end):
        threading.Timer(0.2, end.set).start()
        with exclusive(tmp_path / ".lock", "it"):
            pass
    assert capfd.readouterr().err == ""
