"""The processes that work on one run together; a run of one process is a group of one, and nothing is sent.

torch holds the group for the whole process, so it is asked here and never handed on. The first process, rank 0, alone
reads and writes the run's folder where the others have to follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from harness.errors import HarnessError, NotApplicable, TrainingError, first_line
from harness.storage.files import new_folder

T = TypeVar("T")


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if size() > 1 else 0


def first() -> bool:
    """Return whether this is the process that writes."""
    return rank() == 0


def wait() -> None:
    """Wait until every process has come here."""
    gathered(None)


def gathered(value: T) -> list[T]:
    """Return what each process has, in the order of their ranks; every process must ask."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    dist.all_gather_object(found, value)
    return found


def from_first(value: T) -> T:
    """Return the first process's value; every process must ask."""
    if size() == 1:
        return value
    held: list[Any] = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]  # type: ignore[no-any-return]


def by_first(work: Callable[[], T]) -> T:
    """Return what `work` returns on the first process, and raise everywhere what it raises there."""
    if size() == 1:
        return work()
    found, raised = None, None
    if first():
        try:
            found = work()
        except Exception as error:  # raised again below, on every process
            raised = error
    found, sent = from_first((found, raised and _sendable(raised)))
    if sent is not None:
        raise raised or sent
    return found  # type: ignore[return-value]


def _sendable(error: Exception) -> Exception:
    """Return an error that another process can read; the type matters for those that a run tells apart."""
    known = isinstance(error, (HarnessError, NotApplicable, TrainingError, OSError))
    return error if known else RuntimeError(f"{type(error).__name__}: {first_line(error)}")


@contextmanager
def held_by_first(lock: AbstractContextManager[bool]) -> Iterator[bool]:
    """Hold a lock on the first process for all; yield everywhere whether it is held."""
    if not first():
        yield from_first(False)
        return
    with lock as mine:
        yield from_first(mine)


@contextmanager
def folder_of_first(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which takes the place of `path` on the first process and is thrown away on the others.

    All go on once it is in its place.
    """
    with new_folder(path) if first() else TemporaryDirectory() as made:
        yield Path(made)
    wait()


def total(value: Tensor) -> Tensor:
    """Return the sum over all processes; every process must ask."""
    if size() == 1:
        return value
    summed = value.detach().clone()
    dist.all_reduce(summed)
    return summed


def summed(count: int, device: torch.device) -> int:
    """Return the sum of a count over all processes."""
    return int(total(torch.tensor(count, dtype=torch.int64, device=device)).item()) if size() > 1 else count


def own(kept: Any) -> Any:
    """Return this process's part of what :func:`kept_together` made; a process that was not there takes the first's."""
    if not isinstance(kept, list):
        return kept
    return kept[rank()] if rank() < len(kept) else kept[0]


def kept_together(value: T) -> T | list[T]:
    """Return what is kept on disk of a value that each process has its own of: of one process the value itself."""
    found = gathered(value)
    return found if len(found) > 1 else value
