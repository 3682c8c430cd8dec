"""What the processes of a run know of each other: one that dies, fails or stands still ends the run for all.

torch's own wait for a process that stopped is half an hour on CPUs and can be for ever on GPUs. Here each process says
every second that it is there, by the key-value store that torch's launcher keeps. On the same host a process that is
gone is seen at once.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from harness.distributed import group

BEAT_SECONDS = 1.0
SILENT_SECONDS = 15.0
"""A process that was silent for so long has died or stands still; one that loads or computes goes on saying so."""
GRACE_SECONDS = 3.0
"""How long the main thread has to notice by itself, mostly by a connection that was closed, and to end in order."""
ENDING = (signal.SIGTERM, signal.SIGINT)
"""What a launcher ends the other processes by, and what a terminal sends to all."""
ORDER_SECONDS = 30.0
"""How long this process may wait for one that was told to stop, whose tracker may take so long to end."""
FAILED, STOPPED, ENDED = "failed", "stopped", "ended"


class PeerLostError(Exception):
    """Another process of the run has died, failed or stands still."""


@dataclass
class Peer:
    """What is known of another process."""

    host: str
    pid: int
    beat: bytes = b""
    seen: float = field(default_factory=time.monotonic)
    """When its last beat came, by this process's clock."""


class Watch:
    """Says that this process lives, and looks whether the others do."""

    def __init__(self, store: Any) -> None:
        self.store, self.rank, self.size = store, group.rank(), group.size()
        places = group.gathered((platform.node(), os.getpid()))
        self.peers = {rank: Peer(*place) for rank, place in enumerate(places) if rank != group.rank()}
        self.write: Callable[[str], None] | None = None
        """Writes a failed record; what a process does that is the first of those that live."""
        self.handled = False
        """Whether the main thread knows, and ends the run in order."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch of the other processes", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking: this process's part of the run is done."""
        self._ended.set()
        self._thread.join()

    def say(self, what: str, reason: str = "") -> None:
        """Tell the others how this process ends."""
        with suppress(Exception):  # the store may have gone with its process
            self.store.set(_key("end", self.rank), f"{what}: {reason}")

    def lost(self) -> tuple[int, str] | None:
        """Return the rank of a process that is lost and how, None where all live, have ended or were told to stop."""
        for rank, peer in self.peers.items():
            said = self._said(rank)
            if said.startswith(FAILED):
                return rank, f"rank {rank} of {self.size}{said.removeprefix(FAILED)}"
            if not said and _gone(peer):
                return rank, f"rank {rank} of {self.size} died (process {peer.pid})"
            silent = time.monotonic() - peer.seen
            if not said and silent > SILENT_SECONDS:
                return rank, f"rank {rank} of {self.size} has not been heard of for {silent:.0f} seconds"
        return None

    def stopped(self) -> signal.Signals | None:
        """Return the signal by which another process was told to stop."""
        said = [self._said(rank).split(": ") for rank in self.peers]
        names = [reason for what, *rest in said if what == STOPPED for reason in rest]
        return signal.Signals[names[0]] if names else None

    def cause(self, seconds: float = GRACE_SECONDS) -> str | None:
        """Return which process is lost and how, waiting so long for it to show; record it where that falls to this."""
        until = time.monotonic() + seconds
        while (found := self.lost()) is None and time.monotonic() < until:
            time.sleep(0.1)
        if found is not None and self.rank > 0:  # the first process writes more, in its own time
            self.record(*found)
        return found[1] if found else None

    def _said(self, rank: int) -> str:
        key = _key("end", rank)
        try:
            return str(self.store.get(key).decode()) if self.store.check([key]) else ""
        except Exception:  # the store went with the process that kept it
            return ""

    def _look(self) -> None:
        """Say and look until the run ends or a process is lost."""
        count = 0
        while not self._ended.wait(BEAT_SECONDS):
            count += 1
            with suppress(Exception):
                self.store.set(_key("beat", self.rank), str(count))
                self._listen()
            if self.lost() is not None and not self._ended.wait(GRACE_SECONDS) and not self.handled:
                self._give_up()
            if (number := self.stopped()) is not None and not self.handled:
                self._stop_too(number)

    def _listen(self) -> None:
        for rank, peer in self.peers.items():
            key = _key("beat", rank)
            beat = self.store.get(key) if self.store.check([key]) else b""
            if beat != peer.beat:
                peer.beat, peer.seen = beat, time.monotonic()

    def _give_up(self) -> None:
        """End this process from outside of its main thread, which waits for one that does not come."""
        found = self.lost()
        if found is None:
            return
        self.record(*found)
        os._exit(1)

    def _stop_too(self, number: int) -> None:
        """Tell this process what another was told; where it waits for that one all the same, end it, unrecorded.

        The signal comes to all processes of a host at once, but may be late on another.
        """
        os.kill(os.getpid(), number)
        if not self._ended.wait(ORDER_SECONDS) and not self.handled:
            os._exit(1)

    def record(self, lost: int, reason: str) -> None:
        """Write why the run ended, where this process is the first of those that live."""
        living = {self.rank, *self.peers} - {lost}
        if self.rank == min(living) and self.write is not None:
            with suppress(Exception):  # a disk that is full, a file server that is gone: nothing is left to try
                self.write(reason)


def _key(what: str, rank: int) -> str:
    return f"harness/{what}/{rank}"


def _gone(peer: Peer) -> bool:
    """Return whether a process of this host is gone, or dead and not yet collected."""
    if peer.host != platform.node():
        return False
    try:
        os.kill(peer.pid, 0)
        state = Path(f"/proc/{peer.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except (OSError, IndexError):  # another user's, or no Linux
        return False
    return state in "ZX"


def broken_connection(error: BaseException | None) -> bool:
    """Return whether an error says that another process is gone; gloo has no type of its own for that."""
    return isinstance(error, (PeerLostError, dist.DistError)) or "gloo" in str(error)


_watches: list[Watch] = []


def current() -> Watch | None:
    """Return the watch of this process, None where it works alone."""
    return _watches[-1] if _watches else None


@contextmanager
def watching(address: str, port: int) -> Iterator[Watch]:
    """Watch the other processes, by the store at this address; a signal to end says why, where another is lost."""
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30)
    )
    watch = Watch(store)
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, _terminated) for number in ENDING} if main else {}
    _watches.append(watch)
    watch.start()
    try:
        yield watch
        watch.say(ENDED)
    finally:
        watch.stop()
        _watches.remove(watch)
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminated(number: int, _frame: Any) -> None:
    """End as another process's loss demands, or as Ctrl-C does: the launcher terminates all once one is lost."""
    watch = current()
    if watch is None or watch.handled:
        return
    raise_if_lost(number)
    ending_in_order(signal.SIGINT)
    raise KeyboardInterrupt


def raise_if_lost(number: int) -> None:
    """Raise :class:`PeerLostError` where a signal came because another process of the run is lost."""
    watch = current()
    if watch is None or watch.handled or number not in ENDING:
        return
    reason = watch.cause(seconds=1.0)
    if reason is not None:
        raise PeerLostError(reason)


def ending_in_order(number: int) -> None:
    """Tell the other processes that this one was told to stop by a signal, and is about to."""
    watch = current()
    if watch is not None:
        watch.handled = True
        watch.say(STOPPED, signal.Signals(number).name)
