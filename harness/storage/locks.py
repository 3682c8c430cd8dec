"""One holder at a time: between the processes of a host, and between hosts that share a file system.

On one host the operating system's lock decides; it is free as soon as its holder dies. Between hosts it may decide
nothing (NFS mounted with ``local_lock``), so beside it lies a holder file: created with O_EXCL, which NFS has kept
atomic since version 3, and touched while it is held. Ages are differences of two times that the file server gave,
because the clocks of two hosts may differ by more than a heartbeat.
"""

from __future__ import annotations

import _thread
import errno
import functools
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from harness import progress
from harness.storage.files import process_runs

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0
"""A holder on another host that has missed eight heartbeats is dead; NFS may show a file's time 60 s late."""
UNWRITTEN_SECONDS = 5.0
"""A holder file is empty for less than a millisecond; one that stays empty was left by a process killed in it."""
CONFIRM_SECONDS = 1.0
"""Wait after taking over from another host, in which a rival that judged at the same time has finished."""
SAY_AFTER_SECONDS = 3.0
POLL_SECONDS = (0.02, 0.5)
"""Shortest and longest sleep between two attempts."""
UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What a file system without locks answers."""
GONE = {errno.ENOENT, errno.ESTALE}
"""What a removed file answers; the second where NFS still knew it."""


def interrupt() -> None:
    """Stop this process as Ctrl-C does, from a thread of it."""
    _thread.interrupt_main()


@contextmanager
def exclusive(path: Path, what: str | Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` while the block runs; yield False at once where another has it and `wait` is off.

    `what` names what is waited for, in the line that is printed once after 3 seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(path, what)
    if not lock.acquire(wait):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@functools.cache
def machine() -> str:
    """Return what tells one host from another: its name, its boot, its process ids' namespace.

    Cloned hosts share a name, containers of one host share a boot, and process ids mean something in one namespace.
    """
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    machine: str
    host: str
    pid: int
    since: float
    """Seconds since 1970 by the holder's own clock; for people only."""
    token: str

    def __str__(self) -> str:
        began = datetime.fromtimestamp(self.since)
        pattern = "%H:%M" if began.date() == datetime.now().date() else "%Y-%m-%d %H:%M"
        return f"host {self.host}, process {self.pid}, since {began.strftime(pattern)}"


@dataclass(frozen=True)
class Found:
    """A holder file as it was read."""

    holder: Holder | None
    """None where the file is empty or damaged."""
    modified: float
    inode: int

    @property
    def key(self) -> str:
        """Return what names this holder and no later one."""
        return self.holder.token if self.holder else f"unwritten-{self.inode}"


class HolderFile:
    """The file that says to other hosts who holds a lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.me = Holder(machine(), platform.node(), os.getpid(), time.time(), uuid.uuid4().hex)

    def read(self, path: Path | None = None) -> Found | None:
        """Return what the file says, None where there is none; opening it makes NFS ask the server."""
        try:
            with (path or self.path).open("rb") as file:
                content, status = file.read(), os.fstat(file.fileno())
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        try:
            holder = Holder(**json.loads(content))
        except (ValueError, TypeError):
            holder = None
        return Found(holder, status.st_mtime, status.st_ino)

    @property
    def mine(self) -> bool:
        """Return whether the file is this holder's."""
        found = self.read()
        return found is not None and found.key == self.me.token

    def create(self, path: Path | None = None) -> bool:
        """Write the file unless there is one; return whether it is ours."""
        path = path or self.path
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(asdict(self.me), file)
        except FileExistsError:
            return False
        found = self.read(path)  # a writer that stood still for long may have been taken for dead
        return found is not None and found.key == self.me.token

    def take(self, process_locked: bool) -> bool:
        """Become the holder unless one is alive; `process_locked`: no other process of this host is one."""
        if self.create():
            return True
        found = self.read()
        if found is None or self._alive(found, process_locked):
            return False
        return self._take_over(found, process_locked)

    def _alive(self, found: Found, process_locked: bool) -> bool:
        """Return whether a holder is alive, as far as this host can know."""
        holder = found.holder
        if (
            holder is not None
            and holder.machine == self.me.machine
            and (process_locked or not process_runs(holder.pid))
        ):
            return False
        return self._now() - found.modified < (UNWRITTEN_SECONDS if holder is None else STALE_SECONDS)

    def _now(self) -> float:
        """Return the time by the clock of the file system."""
        probe = self._beside(f"{self.me.token}.clock")
        try:
            probe.touch()
            os.utime(probe)  # NFS sets the server's time, as it does for a heartbeat
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _take_over(self, dead: Found, process_locked: bool) -> bool:
        """Replace the file of a dead holder; of all who judged it dead, one creates its successor's file."""
        successor = self._beside(f"{dead.key}.next")
        if not self.create(successor):
            rival = self.read(successor)
            if rival is not None and not self._alive(rival, process_locked):
                successor.unlink(missing_ok=True)  # it died in here; the next attempt takes over
            return False
        try:
            now = self.read()
            if now is None or now.key != dead.key:
                return False
            with suppress(FileNotFoundError):  # removed by a rival that took this process for dead
                successor.replace(self.path)  # at no moment is there no holder
        finally:
            successor.unlink(missing_ok=True)
        if dead.holder is None or dead.holder.machine != self.me.machine:
            time.sleep(CONFIRM_SECONDS)
        return self.mine

    def refresh(self) -> None:
        """Show other hosts that the holder is alive."""
        os.utime(self.path)

    def remove(self) -> None:
        """Remove the file, unless another has taken it over."""
        if self.mine:
            self.path.unlink(missing_ok=True)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")


def holder_of(path: Path) -> Holder | None:
    """Return who holds the lock file `path`, None where nobody alive does as far as this host can know; take nothing.

    Trying the lock itself would make its holder's siblings take the run for another process's.
    """
    file = HolderFile(path.with_name(f"{path.name}.holder"))
    found = file.read()
    if found is None or found.holder is None:
        return None
    try:
        alive = file._alive(found, process_locked=False)
    except OSError:  # a folder that can only be read: the two clocks have to do
        alive = time.time() - found.modified < STALE_SECONDS
    return found.holder if alive else None


class Lock:
    """The operating system's lock and the holder file, held together."""

    def __init__(self, path: Path, what: str | Path) -> None:
        self.what = what
        # A soft lock, filelock's own answer to ENOSYS, stays behind when its process is killed.
        self._native = FileLock(path, fallback_to_soft=False)
        self._supported = True
        self._file = HolderFile(path.with_name(f"{path.name}.holder"))
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"heartbeat {path}", daemon=True)

    def acquire(self, wait: bool) -> bool:
        """Return True once the lock is held, False at once where it is not free and `wait` is off."""
        try:
            held = self._try() or (wait and self._wait())
            if held:
                self._heart.start()
        except BaseException:
            self._let_go()
            raise
        if not held:
            self._native.release()
        return held

    def _wait(self) -> bool:
        """Try until the lock is held; say once for what it waits."""
        began, said, pause = time.monotonic(), False, POLL_SECONDS[0]
        while True:
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS[1])
            if self._try():
                return True
            if not said and time.monotonic() - began > SAY_AFTER_SECONDS:
                said = True
                found = self._file.read()
                holder = found.holder if found else None
                progress.say(f"waiting for {self.what}: held by {holder or 'another process'}")

    def _try(self) -> bool:
        # Held on while another host is waited for: the processes of this one then wait for its lock alone.
        return self._lock_process() and self._file.take(self._supported)

    def _lock_process(self) -> bool:
        """Return whether this host's other processes are locked out, or cannot be."""
        if self._native.is_locked or not self._supported:
            return True
        try:
            self._native.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._supported = False
        return True

    def _beat(self) -> None:
        """Touch the holder file until the lock is released."""
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                if not self._file.mine:
                    log.error("%s: another host took over the lock while this process was paused; stopping", self.what)
                    interrupt()  # as Ctrl-C does: two processes must not write one run
                    return
                self._file.refresh()
            except OSError as error:  # a file server that is away for a moment: the next beat tries again
                log.debug("%s: no heartbeat: %s", self.what, error)

    def release(self) -> None:
        """Let the next one in; the holder file goes first, so that no one of this host sees it as a dead one's."""
        self._ended.set()
        self._heart.join()
        self._let_go()

    def _let_go(self) -> None:
        try:
            self._file.remove()
        finally:
            self._native.release()
