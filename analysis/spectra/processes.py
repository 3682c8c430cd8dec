"""Work shared among processes, a matrix at a time, without threads that wait for each other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from harness.runtime import cores

if TYPE_CHECKING:
    from threadpoolctl import threadpool_limits

Result = TypeVar("Result")
SHARE = 50
"""Matrices that a process has at least: it takes about 5 s and half a GiB to begin, a matrix about 1 s."""


def processes(asked: int | None, matrices: int, device: str = "cpu") -> int:
    """Return how many processes share the matrices: as asked; else on a CPU one a core, of :data:`SHARE` each."""
    if asked is not None:
        return asked
    return max(1, min(cores(), matrices // SHARE)) if device == "cpu" else 1


def each(work: Callable[[str], Result], names: Sequence[str], jobs: int) -> Iterator[Result]:
    """Yield the work's result for each name in order, `jobs` processes sharing the work; it must be picklable.

    SciPy's BLAS has one thread meanwhile. Its threads and torch's are two pools that wait in a loop for work: with two
    of each on two cores and other work beside them, ARPACK's last step, of less than 1 ms, took 500.
    """
    if jobs == 1:
        with one_blas_thread():
            yield from map(work, names)
        return
    threads = max(1, cores() // jobs)
    # spawn: a process forked after torch has started its threads may wait for ever
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(threads,)) as pool:
        pending = [pool.submit(work, name) for name in names]
        try:
            for future in pending:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def one_blas_thread() -> threadpool_limits:
    """Give SciPy's BLAS one thread, until the end of a ``with`` where there is one."""
    import scipy.linalg  # noqa: F401  loads a BLAS of its own: only what is loaded can be limited
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


def _begin(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    one_blas_thread()
